"""A pytest plugin that lets tests written for ``pytorch_lightning`` run with ``lightning.pytorch``.

``python -m pytest -p tools.alias_lightning``: every ``import pytorch_lightning…`` returns the module of the same name
from ``lightning.pytorch``, the same object, so that there is only one Lightning. Raises if both are installed.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

WRITTEN, MEANT = "pytorch_lightning", "lightning.pytorch"


class Alias(MetaPathFinder, Loader):
    """Finds ``pytorch_lightning…`` in ``lightning.pytorch…``."""

    def __init__(self) -> None:
        self.specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if f"{fullname}.".startswith(f"{WRITTEN}.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(MEANT + spec.name.removeprefix(WRITTEN))
        self.specs[module.__name__] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # the module was already executed under its own name, and keeps that name
        module.__spec__ = self.specs[module.__name__]


if importlib.util.find_spec(WRITTEN) is not None:
    raise ImportError(f"{WRITTEN} is installed: {MEANT} cannot go by its name")
importlib.import_module(MEANT)
sys.meta_path.insert(0, Alias())
