"""A sheet to draw on, in pixels from its upper left corner, and text shortened to fit on it."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.patches import Polygon, Rectangle

from xai_lightning.functional.render.canvas import INK, Picture, inches, pixels, write

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Points = Sequence[Point] | npt.NDArray[np.float64]
GRID, FORBIDDEN, BAND, STRIP = "#dcdcdc", "#fbe3d3", "#c9dcec", "#8fb4d4"
STRIPES = ("#f4f4f4", "#ffffff")
VALUE, THRESHOLD, STAR = "#20639b", "#d1600f", "#00795c"


class Sheet:
    """A white canvas; later shapes cover earlier ones, and text covers everything.

    Args:
        width: width in pixels.
        height: height in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height, self._order = width, height, 0
        self._figure = Figure(inches(width, height))
        # the canvas is half a pixel larger than the picture: `inches`
        self._axes = self._figure.add_axes((0, 0, 1, 1), frame_on=False, zorder=1, autoscale_on=False)
        self._axes.set(xlim=(0, width + 0.5), ylim=(height + 0.5, 0))
        self._axes.set_axis_off()

    def boxes(self, corners: Sequence[Box], colour: str) -> None:
        """Draw filled rectangles (left, top, right, bottom) with sharp edges."""
        shapes = [Rectangle((left, top), right - left, bottom - top) for left, top, right, bottom in corners]
        self._add(PatchCollection(shapes, facecolors=colour, edgecolors="none", antialiaseds=False))

    def area(self, outline: Points, colour: str) -> None:
        """Draw a filled polygon."""
        self._add(PatchCollection([Polygon(np.asarray(outline))], facecolors=colour, edgecolors="none"))

    def lines(self, courses: Sequence[Points], colour: str, width: float = 1.0) -> None:
        """Draw lines through points; ``width`` in pixels."""
        self._add(LineCollection([np.asarray(x) for x in courses], colors=colour, linewidths=width * 0.72))

    def marks(self, points: Points, shape: str, size: float, *, ink: str, fill: str | None = None) -> None:
        """Draw markers of a Matplotlib shape, ``size`` pixels wide; hollow markers are filled with white."""
        x, y = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
        self._order += 1
        (line,) = self._axes.plot(x, y, shape, markersize=0.72 * size, mec=ink, mfc=fill or "#ffffff")
        line.set(markeredgewidth=0.9, zorder=self._order, clip_on=False)

    def text(self, words: str, x: float, y: float, side: str = "left", *, size: float = 9, ink: str = INK) -> None:
        """Write plain text beside a point, vertically centred on it."""
        write(self._figure, words, x, y, side, size=size, ink=ink)

    def picture(self) -> Picture:
        """The sheet as a picture."""
        return pixels(self._figure)

    def _add(self, shapes: LineCollection | PatchCollection) -> None:
        self._order += 1
        shapes.set(zorder=self._order, clip_on=False)
        self._axes.add_collection(shapes, autolim=False)


def fitted(names: Sequence[str], room: float, size: float, numbers: Sequence[int] = ()) -> list[str]:
    """``names`` shortened to one line of ``room`` pixels each, and all different.

    Long names are shortened in the middle, since names of one attribute often differ only at the end. Ambiguous names
    (equal when shortened, or with letters that the font lacks and draws as boxes) are preceded by their number.

    Args:
        names: Any text.
        room: Width in pixels.
        size: Font size in points.
        numbers: The number of each name; by default, numbers start at 1.

    Returns:
        One name for each.

    Example:
        >>> fitted(["Female", "Male"], room=100, size=9)
        ['Female', 'Male']
    """
    font = _font(size)
    clean = [_line(name) for name in names]
    cut = [_cut(name, room, font) for name in clean]
    doubtful = [cut.count(short) > 1 or not _drawable(short, font) for short in cut]
    marks = [f"{number}: " for number in numbers or range(1, len(names) + 1)]
    return [
        mark + _cut(name, room - _width(mark, font), font) if doubt else short
        for name, short, mark, doubt in zip(clean, cut, marks, doubtful, strict=True)
    ]


def wrapped(text: str, room: float, size: float) -> list[str]:
    """``text`` wrapped into lines of ``room`` pixels.

    Args:
        text: Words.
        room: Width in pixels.
        size: Font size in points.

    Returns:
        The lines; a word longer than a line is shortened in the middle.

    Example:
        >>> wrapped("red: evidence for it, blue: against it", room=120, size=8)
        ['red: evidence for it,', 'blue: against it']
    """
    font = _font(size)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, font) <= room:
            lines[-1] = longer
        else:
            lines.append(_cut(word, room, font))
    return lines or [""]


def listed(names: Sequence[str], room: float, size: float = 8) -> str:
    """As many of ``names`` as fit into one line of ``room`` pixels, and the number of the others."""
    font = _font(size)
    for count in range(min(len(names), 8), 0, -1):
        more = f" … and {len(names) - count} more" if count < len(names) else ""
        line = ", ".join(fitted(names[:count], max(room / count, 150), size)) + more
        if _width(line, font) <= room:
            return line
    return f"{len(names)}"


def counted(count: float) -> str:
    """A count in a few characters."""
    if not math.isfinite(count):
        return "–"
    if count < 1e5:
        return f"{count:,.0f}"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1e3**power:,.{0 if count >= 1e2 * 1e3**power else 1}f}{' kMGT'[power]}"


def breadth(text: str, size: float) -> float:
    """Width of ``text`` in pixels, rather overestimated."""
    return _width(text, _font(size))


def _font(size: float) -> FT2Font:
    font = get_font(findfont(FontProperties(family=["sans-serif"])))
    font.set_size(size, 100)
    return font


def _line(name: str) -> str:
    """``name`` in one line, without unprintable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in name[:300]).split()) or "(empty)"


def _width(text: str, font: FT2Font) -> float:
    """Width in pixels, rather overestimated; a letter that the font lacks is as wide as its box."""
    glyphs = (font.load_glyph(font.get_char_index(ord(c)), LoadFlags.NO_HINTING) for c in text)
    return sum(glyph.linearHoriAdvance for glyph in glyphs) / 65536 * 1.06


def _cut(text: str, room: float, font: FT2Font) -> str:
    """``text`` shortened in the middle to ``room`` pixels if needed."""
    if len(text) < room and _width(text, font) <= room:
        return text
    ends, used = ["", ""], _width("…", font)
    for place in range(len(text)):
        tail = place % 2
        letter = text[-(place // 2) - 1] if tail else text[place // 2]
        used += _width(letter, font)
        if used > room:
            return ends[0].rstrip() + "…" + ends[1].lstrip()
        ends[tail] = letter + ends[1] if tail else ends[0] + letter
    return text


def _drawable(text: str, font: FT2Font) -> bool:
    return all(font.get_char_index(ord(c)) for c in text)
