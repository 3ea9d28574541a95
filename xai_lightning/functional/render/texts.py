"""Texts with their tokens coloured by attribution."""

import math
from collections.abc import Sequence
from typing import NamedTuple

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
    write,
)
from xai_lightning.functional.render.sheets import fitted, wrapped
from xai_lightning.functional.render.words import Letters, Word

MOST_TEXTS, MOST_LINES = 8, 16
_WIDTH, _LINE, _LEFT, _SIZE, _TALLEST = 600, 19, 78, 9, 1500


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

    Red is evidence for the explained output, blue evidence against it. Lines run from left to right whatever the script
    of their tokens.

    Args:
        tokens: the words of each of N texts; empty words are left out.
        now: float[N, T], attribution of each token.
        reference: float[N, T], attribution at the reference; None leaves its lines out.
        titles: one line for each text.
        scale: absolute value of full colour; larger values saturate.
        note: unit of the scale.

    Returns:
        uint8[H, W, 3], 600 pixels wide and at most about 1,500 high: the first 16 lines of each of the first 8 texts,
        or of fewer if they are long.

    Raises:
        ValueError: if the lengths do not match, or the scale is not positive and finite.

    Example:
        >>> token_lines([["good", "film"]], torch.ones(1, 2), None, titles=["label 1"], scale=1.0).shape[1]
        600
    """
    check_count("`tokens`, `now` and `titles`", (len(tokens), len(now), len(titles)))
    check_scale(scale)
    kinds = [("now", now)] if reference is None else [("reference", reference), ("now", now)]
    # ignore the user's style: pictures look the same on all machines
    with style.context("default"):
        letters = Letters(_SIZE)
    texts = _chosen([_text(words, letters) for words in tokens[:MOST_TEXTS]], len(kinds))
    legend = wrapped(_legend(kinds, scale, note), _WIDTH - 16, 8)
    height = 26 + 14 * len(legend) + sum(text.height(len(kinds)) for text in texts.values())
    canvas = torch.full((height, _WIDTH, 3), 255, dtype=torch.uint8, device="cpu")
    written: list[_Written] = []
    y = 18
    for number, text in texts.items():
        written.append(_Written(fitted([titles[number]], _WIDTH - 16, 10)[0], 8, y, 10, INK))
        maps = [(kind, values[number]) for kind, values in kinds]
        written += _lines(canvas, (y + 21, letters.step), text, maps, scale)
        y += text.height(len(kinds))
    below = [_Written(line, 8, height - 12 - 14 * place, 8, FAINT) for place, line in enumerate(reversed(legend))]
    with style.context("default"):
        figure = Figure(inches(_WIDTH, height))
        figure.figimage(canvas.numpy(), origin="upper")
        for shown, x, down, size, ink, mono in [*written, *below]:
            write(figure, shown, x, down, "left", size=size, ink=ink, mono=mono)
        return pixels(figure)


def _legend(kinds: Sequence[tuple[str, Tensor]], scale: float, note: str) -> str:
    words = f"red: for the explained output, blue: against it; full colour is {scale:.3g} {note}".rstrip()
    return words + ("" if all(values.isfinite().all() for _, values in kinds) else "; grey: not finite")


class _Written(NamedTuple):
    """Text at a position in pixels from the upper left corner."""

    text: str
    x: float
    y: float
    size: float
    ink: str
    mono: bool = False


class _Text(NamedTuple):
    """The words of one text, the indices of those in each line, and the number of words left out."""

    words: list[Word]
    lines: list[list[int]]
    rest: int

    def height(self, kinds: int) -> int:
        """Height in pixels, with every line drawn ``kinds`` times."""
        return 26 + len(self.lines) * (kinds * _LINE + 4) + (_LINE if self.rest else 0)


def _text(tokens: Sequence[str], letters: Letters) -> _Text:
    words = [letters.word(token) for token in tokens]
    lines: list[list[int]] = [[]]
    room = most = int((_WIDTH - _LEFT - 12) / letters.step)
    for place, word in enumerate(words):
        if not word.text:
            continue
        if word.cells + 1 > room and lines[-1]:
            lines.append([])
            room = most
        lines[-1].append(place)
        room -= word.cells + 1
    return _Text(words, lines[:MOST_LINES], sum(map(len, lines[MOST_LINES:])))


def _chosen(texts: Sequence[_Text], kinds: int) -> dict[int, _Text]:
    """As many texts as there is room for, evenly spread and at least one; the choice depends on their words only."""
    places = list(range(len(texts)))
    while len(places) > 1 and sum(texts[place].height(kinds) for place in places) > _TALLEST:
        count = len(places) - 1
        places = [round(i * (len(texts) - 1) / max(1, count - 1)) for i in range(count)]
    return {place: texts[place] for place in places}


def _lines(
    canvas: Tensor, down: tuple[int, float], text: _Text, maps: Sequence[tuple[str, Tensor]], scale: float
) -> list[_Written]:
    """Paint the boxes of one text, each line once per map; return its words, and the number of those left out."""
    written, (y, step) = [], down
    for line in text.lines:
        for kind, values in maps:
            written.append(_Written(kind, 12, y, 8, FAINT))
            written += _line(canvas, (y, step), [(text.words[place], float(values[place])) for place in line], scale)
            y += _LINE
        y += 4
    return [*written, _Written(f"… and {text.rest} more", _LEFT, y, 8, FAINT)] if text.rest else written


def _line(canvas: Tensor, down: tuple[int, float], line: Sequence[tuple[Word, float]], scale: float) -> list[_Written]:
    """Paint the boxes of one line; return plain words as one text with gaps per ink, and other words one by one."""
    (y, step), rows, alone, x = down, {INK: "", "#ffffff": ""}, [], float(_LEFT)
    for word, value in line:
        colour = coloured(torch.tensor([[value]], device="cpu").double(), scale)[0]
        red, green, blue = colour.tolist()
        canvas[y - 8 : y + 9, round(x - 2) : round(x + word.cells * step + 2)] = colour
        bright = not math.isfinite(value) or 0.299 * red + 0.587 * green + 0.114 * blue >= 140
        ink = INK if bright else "#ffffff"
        for each in rows:
            rows[each] += (word.text if word.plain and each == ink else " " * word.cells) + " "
        if not word.plain:
            alone.append(_Written(word.text, x, y, _SIZE, ink, mono=True))
        x += (word.cells + 1) * step
    return [_Written(text, _LEFT, y, _SIZE, ink, mono=True) for ink, text in rows.items() if text.strip()] + alone
