"""Reads the record within a checkpoint, either without unpickling or with ``weights_only=True``."""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from xai_lightning.callbacks._gate.evidence import CHECKPOINT_KEY, foreign_classes
from xai_lightning.verify.evidence import UnreadableError


class Seen(NamedTuple):
    """What can be seen of the record within a checkpoint without loading it.

    Attributes:
        file: The file that holds it: the checkpoint, or a file within its folder; None if no file could be read.
        texts: Every text stored under the evidence's key, at any depth; usually one.
        why: Why no file could be read; empty otherwise.
    """

    file: Path | None
    texts: tuple[str, ...]
    why: str = ""


def look(checkpoint: Path) -> Seen:
    """Find the record within a checkpoint by reading its pickle as a list of instructions, none of which is run.

    A folder (a sharded checkpoint) is searched in the order of its file names; ``.ckpt`` files or folders within it are
    skipped as other checkpoints.
    """
    files = [checkpoint] if checkpoint.is_file() else _parts(checkpoint)
    first, why = None, f"{checkpoint.name} is a folder without files of its own"
    for file in files:
        try:
            texts = tuple(stored_texts(_pickle_of(file), CHECKPOINT_KEY))
        except Exception as error:  # noqa: BLE001 - a broken checkpoint, or another kind of file, may raise anything
            why = f"{file.name}: {error}"
            continue
        if texts:
            return Seen(file, texts)
        first = first or file
    return Seen(first, (), "" if first else why)


def _parts(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.endswith(".ckpt") for part in path.relative_to(folder).parts)]


def stored_texts(pickled: bytes, key: str) -> Iterator[str]:
    """Texts that directly follow the text ``key`` in a pickle, as the values of a dict follow their keys.

    Example:
        >>> import pickle
        >>> list(stored_texts(pickle.dumps({"a": "b", "c": 1}), "a"))
        ['b']
    """
    memo: dict[int, object] = {}
    before: object = None
    last: object = None
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "MEMOIZE":
            memo[len(memo)] = last
        elif code.name.endswith("PUT"):
            memo[int(str(argument))] = last
        else:
            text = argument if "UNICODE" in code.name else None
            before, last = last, memo.get(int(str(argument))) if code.name.endswith("GET") else text
            if before == key and isinstance(last, str):
                yield last


def load(checkpoint: Path) -> str:
    """The text under the evidence's key, from a checkpoint loaded with ``weights_only=True``.

    Raises:
        UnreadableError: if there is no such text, if the file is not a checkpoint, or if it holds objects of classes
            that torch does not allow; these are named.
    """
    import torch

    file = look(checkpoint).file or checkpoint
    if not file.is_file():
        raise UnreadableError(f"{checkpoint.name} holds no file that could be read as a checkpoint")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UnreadableError(_why_not(file, error)) from error
    text = content.get(CHECKPOINT_KEY) if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise UnreadableError(f"{file.name} holds no evidence of a gate, and has no side file")
    return text


def _why_not(file: Path, error: Exception) -> str:
    if classes := foreign_classes(file):
        return (
            f"{file.name} is loaded with weights_only=True only, which refuses objects that it holds: "
            f"{', '.join(classes)}. They are in its hyperparameters or in the state of other callbacks. "
            f"Put the side file {file.stem}.verdict.json back beside it"
        )
    return f"{file.name} is not a checkpoint: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _pickle_of(file: Path) -> bytes:
    with zipfile.ZipFile(file) as archive:
        inner = next((entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")), None)
        if inner is None:
            # anybody may have chosen these names, so they are escaped and cut
            names = [repr(name[:40]) for name in archive.namelist()]
            raise ValueError(f"no data.pkl in it, but {', '.join(names[:3]) or 'nothing'}{', …' * (len(names) > 3)}")
        if inner.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its data.pkl is compressed (method {inner.compress_type}), which torch never does")
        return archive.read(inner)
