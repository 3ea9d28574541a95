"""Words of any script, and the space that each takes in monospaced text."""

import math
import unicodedata
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from xai_lightning.functional.render.canvas import boxes_for_unknown, families, inches, short

LONGEST = 40
LEFTWARDS = ("R", "AL", "AN")


class Word(NamedTuple):
    """The displayed form of a token.

    Args:
        text: displayed text, empty for padding.
        cells: width in monospaced letters.
        plain: whether it consists of monospaced letters only; other words are drawn one by one in their boxes.
    """

    text: str
    cells: int
    plain: bool


class Letters:
    """Measures words in monospaced letters.

    Args:
        size: font size in points.

    Example:
        >>> Letters(9).word("good")
        Word(text='good', cells=4, plain=True)
        >>> Letters(9).word(" ").text
        '␣'
    """

    def __init__(self, size: float) -> None:
        self._font = FontProperties(family=families(mono=True), size=size)
        self._renderer = FigureCanvasAgg(Figure(inches(100, 100))).get_renderer()  # type: ignore[no-untyped-call]
        self._own = get_font(findfont(FontProperties(family=["monospace"])))
        # the width of a text is rounded to whole pixels
        self.step = self._width("0" * LONGEST) / LONGEST

    def word(self, token: str) -> Word:
        """The displayed form of ``token``."""
        text = _shown(token)
        if all(map(self._plain, text)):
            return Word(text, len(text), plain=True)
        return Word(text, max(1, math.ceil(self._width(text) / self.step)), plain=False)

    def _plain(self, letter: str) -> bool:
        known = self._own.get_char_index(ord(letter)) > 0 and letter.isprintable()
        return known and not unicodedata.combining(letter) and unicodedata.bidirectional(letter) not in LEFTWARDS

    def _width(self, text: str) -> float:
        with boxes_for_unknown():
            return float(self._renderer.get_text_width_height_descent(text, self._font, False)[0])


def _shown(token: str) -> str:
    """``token`` in one short line; invisible tokens are spelled out."""
    if token and not token.strip():
        return "␣"
    text = "".join(c for c in token if unicodedata.category(c) != "Cc" or c.isspace())
    if not any(c.isprintable() and not c.isspace() for c in text):
        text = token.encode("unicode_escape").decode()
    return short(text, LONGEST)
