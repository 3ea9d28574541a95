"""A sheet to draw on, in pixels from its upper left corner, and names that fit on it."""

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
    """White paper of so many pixels; what is drawn later lies above, and words above everything.

    Args:
        width: pixels.
        height: pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height, self._order = width, height, 0
        self._figure = Figure(inches(width, height))
        # the canvas is half a pixel larger than the picture: `inches`
        self._axes = self._figure.add_axes((0, 0, 1, 1), frame_on=False, zorder=1, autoscale_on=False)
        self._axes.set(xlim=(0, width + 0.5), ylim=(height + 0.5, 0))
        self._axes.set_axis_off()

    def boxes(self, corners: Sequence[Box], colour: str) -> None:
        """Filled rectangles (left, top, right, bottom) with sharp edges."""
        shapes = [Rectangle((left, top), right - left, bottom - top) for left, top, right, bottom in corners]
        self._add(PatchCollection(shapes, facecolors=colour, edgecolors="none", antialiaseds=False))

    def area(self, outline: Points, colour: str) -> None:
        """A filled polygon."""
        self._add(PatchCollection([Polygon(np.asarray(outline))], facecolors=colour, edgecolors="none"))

    def lines(self, courses: Sequence[Points], colour: str, width: float = 1.0) -> None:
        """Lines through points; ``width`` in pixels."""
        self._add(LineCollection([np.asarray(x) for x in courses], colors=colour, linewidths=width * 0.72))

    def marks(self, points: Points, shape: str, size: float, *, ink: str, fill: str | None = None) -> None:
        """Marks of a Matplotlib shape, ``size`` pixels wide; hollow marks are filled with white."""
        x, y = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
        self._order += 1
        (line,) = self._axes.plot(x, y, shape, markersize=0.72 * size, mec=ink, mfc=fill or "#ffffff")
        line.set(markeredgewidth=0.9, zorder=self._order, clip_on=False)

    def text(self, words: str, x: float, y: float, side: str = "left", *, size: float = 9, ink: str = INK) -> None:
        """Plain text beside a point, its middle at the height of the point."""
        write(self._figure, words, x, y, side, size=size, ink=ink)

    def picture(self) -> Picture:
        """What was drawn."""
        return pixels(self._figure)

    def _add(self, shapes: LineCollection | PatchCollection) -> None:
        self._order += 1
        shapes.set(zorder=self._order, clip_on=False)
        self._axes.add_collection(shapes, autolim=False)


def fitted(names: Sequence[str], room: float, size: float, numbers: Sequence[int] = ()) -> list[str]:
    """``names``, each in one line of ``room`` pixels, and all of them different.

    Long names lose their middle, since names of one attribute often differ at the end only. What would be ambiguous
    (equal after that, or of letters that the font lacks and that are drawn as boxes) is preceded by its number.

    Args:
        names: Any text.
        room: Pixels.
        size: Points.
        numbers: The number of each name; from 1 on if not given.

    Returns:
        As many names.

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
    """``text`` in as few lines of ``room`` pixels as hold all of its words.

    Args:
        text: Words.
        room: Pixels.
        size: Points.

    Returns:
        The lines; a word that is longer than one loses its middle.

    Example:
        >>> wrapped("red speaks for it, blue against it", room=120, size=8)
        ['red speaks for it,', 'blue against it']
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
    """As many of ``names`` as one line of ``room`` pixels holds, and how many more there are."""
    font = _font(size)
    for count in range(min(len(names), 8), 0, -1):
        more = f" … and {len(names) - count} more" if count < len(names) else ""
        line = ", ".join(fitted(names[:count], max(room / count, 150), size)) + more
        if _width(line, font) <= room:
            return line
    return f"{len(names)}"


def counted(count: float) -> str:
    """A count, short."""
    if not math.isfinite(count):
        return "–"
    if count < 1e5:
        return f"{count:,.0f}"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1e3**power:,.{0 if count >= 1e2 * 1e3**power else 1}f}{' kMGT'[power]}"


def breadth(text: str, size: float) -> float:
    """Pixels that ``text`` takes, rather too many."""
    return _width(text, _font(size))


def _font(size: float) -> FT2Font:
    font = get_font(findfont(FontProperties(family=["sans-serif"])))
    font.set_size(size, 100)
    return font


def _line(name: str) -> str:
    """``name`` in one line, without letters that no font has."""
    return " ".join("".join(c if c.isprintable() else " " for c in name[:300]).split()) or "(empty)"


def _width(text: str, font: FT2Font) -> float:
    """Pixels, rather too many; a letter that the font lacks is as wide as its box."""
    glyphs = (font.load_glyph(font.get_char_index(ord(c)), LoadFlags.NO_HINTING) for c in text)
    return sum(glyph.linearHoriAdvance for glyph in glyphs) / 65536 * 1.06


def _cut(text: str, room: float, font: FT2Font) -> str:
    """``text``, or its ends."""
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
