"""A plugin of pytest that lets tests written for ``pytorch_lightning`` run with ``lightning.pytorch``.

``python -m pytest -p tools.alias_lightning``: every ``import pytorch_lightning…`` gives the module of the same name of
``lightning.pytorch``, the very same object, so that there is one Lightning only. Refused where both are installed.
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
        # it ran under its own name already, and keeps it
        module.__spec__ = self.specs[module.__name__]


if importlib.util.find_spec(WRITTEN) is not None:
    raise ImportError(f"{WRITTEN} is installed: {MEANT} cannot go by its name")
importlib.import_module(MEANT)
sys.meta_path.insert(0, Alias())
