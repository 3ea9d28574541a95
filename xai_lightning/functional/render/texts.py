"""Tokens as coloured lines of text."""

import math
from collections.abc import Sequence

import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import (
    FAINT,
    INK,
    Picture,
    check_count,
    check_scale,
    coloured,
    inches,
    pixels,
    short,
    write,
)

MOST_TEXTS = 8
_WIDTH, _LINE, _LETTER, _LEFT, _SIZE = 860, 19, 7.55, 84, 9
_LETTERS = int((_WIDTH - _LEFT - 12) / _LETTER)


def token_lines(
    tokens: Sequence[Sequence[str]],
    now: Tensor,
    reference: Tensor | None,
    *,
    titles: Sequence[str],
    scale: float,
) -> Picture:
    """Each text twice, coloured by the attribution of its tokens now and at the reference.

    Red speaks for what is explained, blue against it. Tokens without a word (padding) are left out.

    Args:
        tokens: the words of each of N texts; an empty word is left out.
        now: float[N, T], attribution of each token.
        reference: float[N, T], likewise at the reference; None leaves its lines out.
        titles: one line for each text.
        scale: the largest absolute value that is told apart.

    Returns:
        uint8[H, W, 3], 860 pixels wide; only the first 8 texts are shown.

    Raises:
        ValueError: if the numbers do not fit, or the scale is not positive and finite.

    Example:
        >>> token_lines([["good", "film"]], torch.ones(1, 2), None, titles=["label 1"], scale=1.0).shape[1]
        860
    """
    check_count("`tokens`, `now` and `titles`", (len(tokens), len(now), len(titles)))
    check_scale(scale)
    count = min(MOST_TEXTS, len(tokens))
    wrapped = [_wrapped([short(word, 40) for word in words]) for words in tokens[:count]]
    kinds = [("now", now)] if reference is None else [("reference", reference), ("now", now)]
    height = 40 + sum(26 + len(lines) * (len(kinds) * _LINE + 4) for lines in wrapped)
    with style.context("default"):
        figure = Figure(inches(_WIDTH, height))
        y = 18.0
        for number, lines in enumerate(wrapped):
            write(figure, titles[number], 8, y, "left", size=10)
            y += 21
            for line in lines:
                for kind, values in kinds:
                    write(figure, kind, 12, y, "left", size=8, ink=FAINT)
                    _draw(figure, line, tokens[number], values[number], y, scale)
                    y += _LINE
                y += 4
            y += 5
        note = f"red speaks for what is explained, blue against it; full colour is {scale:.3g}"
        write(figure, note, 8, height - 12, "left", size=8, ink=FAINT)
        return pixels(figure)


def _wrapped(words: Sequence[str]) -> list[list[int]]:
    """Positions of the words of each line."""
    lines: list[list[int]] = [[]]
    room = _LETTERS
    for place, word in enumerate(words):
        if not word:
            continue
        if len(word) + 1 > room and lines[-1]:
            lines.append([])
            room = _LETTERS
        lines[-1].append(place)
        room -= len(word) + 1
    return lines


def _draw(figure: Figure, line: Sequence[int], words: Sequence[str], values: Tensor, y: float, scale: float) -> None:
    x = float(_LEFT)
    for place in line:
        word, value = short(words[place], 40), float(values[place])
        red, green, blue = coloured(torch.tensor([[value]]).double(), scale)[0].tolist()
        dark = math.isfinite(value) and 0.299 * red + 0.587 * green + 0.114 * blue < 140
        box = {"facecolor": (red / 255, green / 255, blue / 255), "edgecolor": "none", "pad": 1.6}
        spot = (x / figure.bbox.width, 1 - y / figure.bbox.height)
        ink = "#ffffff" if dark else INK
        font = {"family": "monospace", "size": _SIZE, "color": ink, "va": "center", "ha": "left"}
        figure.text(*spot, word, bbox=box, parse_math=False, **font)  # type: ignore[arg-type]
        x += (len(word) + 1) * _LETTER
