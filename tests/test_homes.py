"""Which Lightning is used, and which is never imported; the rest is in ``tests/namespaces``."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import xai_lightning
from xai_lightning import _lightning as home

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BOTH = ("pytorch_lightning", "lightning.pytorch")


def requirements() -> list[Requirement]:
    """Everything that the project may bring, extras included."""
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for texts in (PROJECT["dependencies"], *extras) for text in texts]


def lightnings() -> dict[str, Requirement]:
    found = {canonicalize_name(requirement.name): requirement for requirement in requirements()}
    return {name: found[name] for name in home.DISTRIBUTIONS}


# --- which one is used


@pytest.mark.parametrize(
    ("imported", "installed", "chosen"),
    [
        ([], ["pytorch_lightning"], "pytorch_lightning"),
        ([], ["lightning.pytorch"], "lightning.pytorch"),
        ([], BOTH, "lightning.pytorch"),
        (["pytorch_lightning"], BOTH, "pytorch_lightning"),
        (["lightning.pytorch"], BOTH, "lightning.pytorch"),
        (BOTH, BOTH, "pytorch_lightning"),
        (BOTH[::-1], BOTH, "lightning.pytorch"),
    ],
)
def test_the_first_imported_is_used_else_what_is_installed(imported, installed, chosen, monkeypatch):
    """Trap 50."""
    for name in home.HOMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in imported:
        monkeypatch.setitem(sys.modules, name, sys)
    monkeypatch.setattr(home, "is_installed", lambda name: name in installed)
    assert home.choose() == chosen


def test_without_any_lightning_the_error_names_both(monkeypatch):
    for name in home.HOMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(home, "is_installed", lambda name: False)
    with pytest.raises(ImportError, match=r"needs lightning\.pytorch or pytorch_lightning, but neither is installed"):
        home.choose()


def test_a_folder_called_lightning_is_not_taken_for_the_package(tmp_path, monkeypatch):
    """Python finds a namespace package in any folder of that name."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lightning" / "pytorch").mkdir(parents=True)
    assert not home.is_installed("lightning.pytorch")
    for part in ("lightning", "lightning/pytorch"):
        (tmp_path / part / "__init__.py").write_text("raise AssertionError('must not be imported')")
    assert home.is_installed("lightning.pytorch")


def test_a_callback_that_is_taken_for_a_list_says_what_to_import():
    """Trap 50: ``Trainer(callbacks=monitor)`` of the other distribution."""
    with pytest.raises(TypeError, match=r"FairnessMonitor is one callback of '.*', not a list.*put `import "):
        list(xai_lightning.FairnessMonitor(groups={"sex": ["Female", "Male"]}))


def test_nothing_is_registered_to_be_loaded_into_every_trainer():
    """Trap 51."""
    assert not {"entry-points", "scripts"} & set(PROJECT)
    assert [point for point in distribution("xai-lightning").entry_points if "callbacks_factory" in point.group] == []
    for name in ("lightning.pytorch.callbacks_factory", "pytorch_lightning.callbacks_factory"):
        assert [point for point in entry_points(group=name) if point.value.startswith("xai_lightning")] == []


# --- which ones are never used


@pytest.mark.parametrize("name", home.DISTRIBUTIONS)
def test_the_specifiers_exclude_the_malicious_releases_and_no_others(name):
    """Trap 59."""
    allowed = lightnings()[name].specifier
    assert {"2.6.2", "2.6.3"} == set(home.MALICIOUS)
    assert not any(allowed.contains(version) for version in (*home.MALICIOUS, "2.6.2+cpu", "2.6.3+anything"))
    assert all(allowed.contains(version) for version in ("2.6.0", "2.6.1", "2.6.4", "2.6.6"))


def test_no_requirement_names_a_lightning_without_the_exclusion():
    """Trap 59."""
    named = [found for found in requirements() if canonicalize_name(found.name) in home.DISTRIBUTIONS]
    assert len(named) >= len(home.DISTRIBUTIONS)
    assert not any(found.specifier.contains(version) for found in named for version in home.MALICIOUS)


def test_the_tested_set_pins_both_distributions_to_one_version_that_is_allowed():
    """Trap 59."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {pins[name] for name in home.DISTRIBUTIONS}
    assert len(versions) == 1
    assert all(lightnings()[name].specifier.contains(version) for name in home.DISTRIBUTIONS for version in versions)


def test_no_text_of_the_project_offers_a_malicious_release():
    """Trap 59: in a file of requirements, a workflow, or a line to copy."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.txt"), ROOT / "Makefile", ROOT / ".ci" / "run"]
    offered = re.compile(r"lightning\s*(==|>=|~=)\s*2\.6\.[23]\b")
    assert [file.name for file in files if offered.search(file.read_text(encoding="utf-8"))] == []


USE = "import {0}xai_lightning; xai_lightning.FairnessMonitor"


def use_with(folder: Path, name: str, version: str, first: str = "") -> tuple[subprocess.CompletedProcess[str], bool]:
    """What happens where an installed distribution calls itself so, and whether anything of it was run.

    The distribution is a fake: its metadata, and modules that write a file when they are imported.
    """
    mark, module = folder / "it ran", name.replace("-", "_")
    (folder / f"{module}-{version}.dist-info").mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / f"{module}-{version}.dist-info" / "METADATA").write_text(text)
    for part in (module, f"{module}/pytorch"):
        (folder / part).mkdir()
        code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nraise RuntimeError('the fake was imported')\n"
        (folder / part / "__init__.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    command = [sys.executable, "-c", USE.format(first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done, mark.exists()


@pytest.mark.parametrize("version", home.MALICIOUS)
@pytest.mark.parametrize("name", home.DISTRIBUTIONS)
def test_a_malicious_release_is_refused_before_anything_of_it_runs(name, version, tmp_path):
    """Trap 59."""
    done, ran = use_with(tmp_path, name, version)
    assert done.returncode != 0
    assert not ran
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: xai_lightning refuses to import {name} {version}")
    assert "Install 2.6.4 or newer" in last
    assert "src/version.info" in last


@pytest.mark.parametrize(("name", "version"), [("lightning", "2.6.4"), ("pytorch-lightning", "2.6.1")])
def test_another_release_is_imported(name, version, tmp_path):
    """That the test above can fail: the same fake under another number does run."""
    done, ran = use_with(tmp_path, name, version)
    assert ran
    assert "RuntimeError: the fake was imported" in done.stderr
