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
    letter,
    pixels,
    short,
    write,
)

MOST_TEXTS = 8
_WIDTH, _LINE, _LEFT, _SIZE = 860, 19, 84, 9


def token_lines(
    tokens: Sequence[Sequence[str]],
    now: Tensor,
    reference: Tensor | None,
    *,
    titles: Sequence[str],
    scale: float,
    note: str = "",
) -> Picture:
    """Each text twice, coloured by the attribution of its tokens now and at the reference.

    Red speaks for what is explained, blue against it. Tokens without a word (padding) are left out.

    Args:
        tokens: the words of each of N texts; an empty word is left out.
        now: float[N, T], attribution of each token.
        reference: float[N, T], likewise at the reference; None leaves its lines out.
        titles: one line for each text.
        scale: the largest absolute value that is told apart.
        note: what the numbers are.

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
    with style.context("default"):
        step = letter(_SIZE)
    room = int((_WIDTH - _LEFT - 12) / step)
    wrapped = [_wrapped([short(word, 40) for word in words], room) for words in tokens[:count]]
    kinds = [("now", now)] if reference is None else [("reference", reference), ("now", now)]
    height = 40 + sum(26 + len(lines) * (len(kinds) * _LINE + 4) for lines in wrapped)
    canvas = torch.full((height, _WIDTH, 3), 255, dtype=torch.uint8)
    texts: list[tuple[str, float, float, float, str]] = []
    y = 18
    for number, lines in enumerate(wrapped):
        texts.append((titles[number], 8, y, 10, INK))
        y += 21
        for line in lines:
            for kind, values in kinds:
                texts.append((kind, 12, y, 8, FAINT))
                texts += _line(canvas, (y, step), line, tokens[number], values[number], scale)
                y += _LINE
            y += 4
        y += 5
    legend = f"red speaks for what is explained, blue against it; full colour is {scale:.3g} {note}"
    with style.context("default"):
        figure = Figure(inches(_WIDTH, height))
        figure.figimage(canvas.numpy(), origin="upper")
        for text, x, down, size, ink in [*texts, (legend, 8, height - 12, 8, FAINT)]:
            write(figure, text, x, down, "left", size=size, ink=ink, mono=x == _LEFT)
        return pixels(figure)


def _wrapped(words: Sequence[str], most: int) -> list[list[int]]:
    """Positions of the words of each line."""
    lines: list[list[int]] = [[]]
    room = most
    for place, word in enumerate(words):
        if not word:
            continue
        if len(word) + 1 > room and lines[-1]:
            lines.append([])
            room = most
        lines[-1].append(place)
        room -= len(word) + 1
    return lines


def _line(
    canvas: Tensor, down: tuple[int, float], line: Sequence[int], words: Sequence[str], values: Tensor, scale: float
) -> list[tuple[str, float, float, float, str]]:
    """Paint the boxes of one line; the words in dark ink and those in white, each as one text with gaps."""
    (y, step), dark, white, x = down, "", "", float(_LEFT)
    for place in line:
        word, value = short(words[place], 40), float(values[place])
        colour = coloured(torch.tensor([[value]]).double(), scale)[0]
        red, green, blue = colour.tolist()
        canvas[y - 8 : y + 9, round(x - 2) : round(x + len(word) * step + 2)] = colour
        bright = not math.isfinite(value) or 0.299 * red + 0.587 * green + 0.114 * blue >= 140
        dark += (word if bright else " " * len(word)) + " "
        white += (" " * len(word) if bright else word) + " "
        x += (len(word) + 1) * step
    return [(text, _LEFT, y, _SIZE, ink) for text, ink in ((dark, INK), (white, "#ffffff")) if text.strip()]
