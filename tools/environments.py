"""Environments with one Lightning, the other, and both, for ``make test-namespaces``: ``python tools/environments.py``.

Run by the Python of ``.venv``, it creates ``.venvs/{pytorch_lightning,lightning,both}``. Each is a virtual environment
that sees this project, a folder of links to the packages in ``.venv`` (torch is large, and installed only once)
*without* any Lightning, and the Lightnings after which it is named. All links are relative, since the project's folder
may move.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venvs"
ENVIRONMENTS = {
    "pytorch_lightning": ("pytorch_lightning",),
    "lightning": ("lightning",),
    "both": ("pytorch_lightning", "lightning"),
}
OWN = {"__pycache__", "lightning", "numba"}
"""Never linked: caches, a ``lightning`` that somebody installed into ``.venv``, and numba, which is optional."""


def top_level(name: str) -> set[str]:
    """The folders and files that a distribution installs directly into ``site-packages``."""
    return {file.parts[0] for file in distribution(name).files or () if file.parts[0] != ".."}


def link(folder: Path, targets: Iterable[Path]) -> None:
    """Create a folder of relative links."""
    folder.mkdir(parents=True)
    for target in targets:
        (folder / target.name).symlink_to(os.path.relpath(target, folder))


def install(folder: Path, requirement: str) -> None:
    """Install one distribution at its pinned version, without its dependencies, which are linked."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "-c", "constraints.txt"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", os.path.relpath(folder, ROOT), requirement]
    subprocess.run(command, check=True, cwd=ROOT)


def make(name: str, parts: Iterable[Path]) -> None:
    """Create a virtual environment whose ``site-packages`` only lists other folders to look in."""
    folder = FOLDER / name
    venv.create(folder, symlinks=True, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (site / "found.pth").write_text("".join(f"{os.path.relpath(part, site)}\n" for part in parts), encoding="utf-8")


def main() -> None:
    """Create all three environments from scratch."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    packages = FOLDER / "packages"
    here = Path(sysconfig.get_path("purelib"))
    lightning = top_level("pytorch-lightning")
    others = [path for path in here.iterdir() if path.name not in lightning | OWN and path.suffix != ".pth"]
    link(packages / "common", (path for path in others if not path.name.startswith("lightning-")))
    link(packages / "pytorch_lightning", (here / name for name in lightning))
    install(packages / "lightning", "lightning")
    for name, homes in ENVIRONMENTS.items():
        make(name, [ROOT, packages / "common", *(packages / home for home in homes)])


if __name__ == "__main__":
    main()
