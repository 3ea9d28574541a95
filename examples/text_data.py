"""Sentences of film reviews with human ratings: 10,605 snippets by C. J. Hutto and E. Gilbert (VADER, ICWSM 2014).

They are read from the source archive of `vaderSentiment` 3.3.2, which is downloaded with pip if it is not present;
nothing from it is copied into this project.
"""

import io
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

ARCHIVE, INNER = "vaderSentiment-3.3.2.tar.gz", "additional_resources/hutto_ICWSM_2014.tar.gz"
SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
LENGTH, VOCABULARY, VALIDATION = 32, 4000, 1500
PAD, UNKNOWN = 0, 1


class Reviews(NamedTuple):
    """Token ids ``int64[N, 32]``, padded with 0, and labels ``int64[N]``, where 1 is a good rating."""

    ids: Tensor
    labels: Tensor


def find_archive(folder: Path) -> Path:
    """The archive in ``folder``, downloaded if necessary.

    Raises:
        FileNotFoundError: if it is not there and cannot be downloaded.
    """
    if not (folder / ARCHIVE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "vaderSentiment"]
        done = subprocess.run([*command, "-d", str(folder), "vaderSentiment==3.3.2"], check=False, capture_output=True)
        if not (folder / ARCHIVE).exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise FileNotFoundError(
                f"{ARCHIVE} is not in {folder} and cannot be fetched with pip: {said}; put it there"
            )
    return folder / ARCHIVE


def read_reviews(folder: Path) -> tuple[Reviews, Reviews, list[str]]:
    """Reviews for training, reviews for validation (1,500), and the words of the token ids."""
    lines = _snippets(find_archive(folder))
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()
    words = [_words(text) for _, text in lines]
    known = Counter(word for i in order[VALIDATION:] for word in words[i])
    vocabulary = ["[pad]", "[unknown]", *(word for word, _ in known.most_common(VOCABULARY))]
    places = {word: place for place, word in enumerate(vocabulary)}
    ids = torch.full((len(lines), LENGTH), PAD)
    for row, each in enumerate(words):
        found = [places.get(word, UNKNOWN) for word in each[:LENGTH]]
        ids[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    labels = torch.tensor([int(rating > 0) for rating, _ in lines])
    parts = [torch.tensor(order[VALIDATION:]), torch.tensor(order[:VALIDATION])]
    training, validation = (Reviews(ids[part], labels[part]) for part in parts)
    return training, validation, vocabulary


def _snippets(archive: Path) -> list[tuple[float, str]]:
    with tarfile.open(archive) as outer:
        member = next(name for name in outer.getnames() if name.endswith(INNER))
        packed = outer.extractfile(member)
        if packed is None:
            raise FileNotFoundError(f"{archive} does not hold {INNER}")
        content = packed.read()
    with tarfile.open(fileobj=io.BytesIO(content)) as inner:
        file = inner.extractfile(SNIPPETS)
        if file is None:
            raise FileNotFoundError(f"{archive} does not hold {SNIPPETS}")
        rows = [line.split("\t") for line in file.read().decode("utf-8", errors="replace").splitlines()]
    return [(float(row[1]), row[2]) for row in rows if len(row) == 3 and _words(row[2])]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+|[0-9]+|[.,!?;:]", text.lower())
