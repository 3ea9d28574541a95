"""Imports point one way: ``tags`` <- ``functional`` <- ``sinks``, ``readers`` <- ``callbacks`` <- ``__init__``."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import xai_lightning

PACKAGE = "xai_lightning"
ROOT = Path(xai_lightning.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
# what each part may import of the package, beside itself
BELOW = {
    "tags": set(),
    "_lightning": set(),
    "_version": set(),
    "functional": {"tags"},
    "readers": {"tags", "functional"},
    "sinks": {"tags", "functional", "_lightning"},
    "callbacks": {"tags", "functional", "readers", "sinks", "_lightning", "_version"},
    "restart": set(),
    "verify": {"tags", "functional", "callbacks"},
    "__init__": {"callbacks", "readers", "restart", "sinks", "_version"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def imported(path: Path) -> tuple[str, ...]:
    return tuple(imports(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth, as a dotted name; ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """The part of the package that a dotted name belongs to; a name of the package itself is in ``__init__``."""
    first = f"{name}.".split(".")[1]
    return first if first in BELOW else "__init__"


def outside(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)} - {PACKAGE}


def importing(names: set[str], but: str = "") -> list[str]:
    """Files that import one of these packages, those of one part left out."""
    named = {module_name(path): outside(path) & names for path in FILES}
    return [name for name, found in named.items() if found and not (but and name.startswith(f"{PACKAGE}.{but}"))]


def test_imports_point_one_way():
    for path in FILES:
        own = part(module_name(path))
        found = {name: part(name) for name in imported(path) if name.split(".")[0] == PACKAGE}
        wrong = {name for name, other in found.items() if other != own and other not in BELOW[own]}
        assert wrong == set(), f"{path.name}: {own} may import {sorted(BELOW[own]) or 'nothing'} of the package"


def test_lightning_is_imported_in_one_place():
    """Trap 50: which distribution is in use is decided once."""
    assert importing(LIGHTNING, but="_lightning") == []


def test_captum_is_imported_where_attributions_are_computed_and_nowhere_else():
    assert importing({"captum"}, but="functional.attribution") == []
    assert importing({"captum"}) != [], "what finds nothing would prove nothing"


def test_wandb_is_imported_in_its_sink_and_mlflow_nowhere():
    """Trap 55: they are extras, and take seconds to import."""
    assert importing({"mlflow"}) == []
    assert importing({"wandb"}) == [f"{PACKAGE}.sinks.wandb"]


def test_pyplot_is_never_imported():
    """Trap 65: its figures leak, and it wants a display."""
    names = {name for path in FILES for name in imported(path)}
    assert not [name for name in names if name.startswith(("matplotlib.pyplot", "pylab"))]


@pytest.mark.parametrize("name", ["tags", "functional.tables"])
def test_names_and_tables_need_the_standard_library_only(name):
    path = ROOT / f"{name.replace('.', '/')}.py"
    assert outside(path) <= sys.stdlib_module_names


PURE = ("activation", "drift", "fairness", "intervals", "representation")


def test_pure_files_do_no_input_or_output():
    """Numpy and files belong to the sinks, drawing to ``render``, global generators to ``rng``.

    What numba compiles is written in numpy's types.
    """
    files = [ROOT / "functional" / "gate.py", *(p for name in PURE for p in (ROOT / "functional" / name).glob("*.py"))]
    unwanted = {"numpy", "pathlib", "io", "os", "random", "matplotlib", "logging"}
    found = {path.name: outside(path) & unwanted for path in files if outside(path) & unwanted}
    assert found == {"kernels.py": {"numpy"}}
    assert len(files) > len(PURE)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = "{'torch', 'pytorch_lightning', 'lightning', 'captum', 'numpy', 'matplotlib', 'tensorboard'}"


def test_importing_the_package_imports_neither_torch_nor_lightning():
    code = (
        f"import sys, xai_lightning; xai_lightning.__version__, dir(xai_lightning); print({HEAVY} & set(sys.modules))"
    )
    assert run(code) == "set()"


@pytest.mark.slow
def test_extras_are_imported_only_when_they_are_used():
    code = "import sys, xai_lightning.callbacks.fairness; print({'mlflow', 'wandb'} & set(sys.modules))"
    assert run(code) == "set()"


def test_tags_can_be_read_without_torch():
    """Trap 72: a reader of logs, or a plugin of TensorBoard, needs the names only."""
    assert run(f"import sys, xai_lightning.tags; print({HEAVY} & set(sys.modules))") == "set()"


def test_every_public_name_can_be_had_and_listed():
    assert set(xai_lightning.__all__) <= set(dir(xai_lightning))
    assert all(getattr(xai_lightning, name).__doc__ for name in xai_lightning.__all__)


def test_an_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match=r"'Fairness'.*FairnessMonitor"):
        xai_lightning.Fairness  # noqa: B018
