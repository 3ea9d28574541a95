"""What all pictures share: colours, fonts, text, and figures as ``uint8[H, W, 3]``.

TensorBoard neither rescales nor clips such pictures (trap 64). Each has a ``Figure`` of its own, never ``pyplot``
(trap 65), and Matplotlib's default style, whatever the user has set. Non-finite values are marked as such and cause no
errors (trap 32).
"""

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from torch import Tensor

Picture = npt.NDArray[np.uint8]
NEUTRAL, UNDEFINED = (247, 247, 247), (150, 150, 150)
INK, FAINT, PLAIN, HIGHLIGHTED = "#222222", "#6f6f6f", "#5b8db8", "#e07b39"
SCRIPTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "Hiragino Sans GB", "Droid Sans Fallback", "Arial Unicode MS", "Noto Sans Arabic"),
    *("Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Emoji", "Segoe UI Emoji", "Symbola"),
)
"""Fonts for scripts that Matplotlib's own fonts lack."""
ANCHORS = ["#0b3c7d", "#3f83bf", "#a9cfe5", "#f7f7f7", "#f6b79b", "#d0553f", "#7f0d20"]
# an odd number, so that 0 has a colour of its own
_COLOURS = torch.tensor(
    LinearSegmentedColormap.from_list("", ANCHORS, N=257)(np.arange(257), bytes=True)[:, :3], device="cpu"
)
GREY = torch.tensor(UNDEFINED, dtype=torch.uint8, device="cpu")


def coloured(tiles: Tensor, scale: float) -> Tensor:
    """Colours ``uint8[..., 3]`` of values ``float[..., 1]``; 0 has exactly the colour ``NEUTRAL``."""
    positions = (128 + 128 * (tiles / scale).clamp(-1, 1)).nan_to_num(128).round().long()
    return _COLOURS[positions.squeeze(-1)].where(tiles.isfinite(), GREY)


def write(
    figure: Figure,
    text: str,
    x: float,
    y: float,
    side: str,
    *,
    size: float = 9,
    ink: str = INK,
    mono: bool = False,
) -> None:
    """Write plain text at a position in pixels from the upper left corner; ``mono`` takes a monospaced font."""
    place = (x / figure.bbox.width, 1 - y / figure.bbox.height)
    # monospaced text is placed by its baseline, which does not depend on its letters
    align = "center_baseline" if mono else "center"
    figure.text(*place, text, ha=side, va=align, size=size, color=ink, parse_math=False, family=families(mono=mono))


@functools.cache
def families(*, mono: bool = False) -> list[str]:
    """Font families in order of preference for each letter: Matplotlib's own, then those of other scripts."""
    here = {font.name for font in fontManager.ttflist}
    return [*(["monospace"] if mono else []), "sans-serif", *(name for name in SCRIPTS if name in here)]


def short(text: str, most: int) -> str:
    """``text`` in one line, cut to at most ``most`` letters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def inches(width: float, height: float) -> tuple[float, float]:
    """Figure size for a number of pixels: at 100 per inch, plus half a pixel, since the canvas rounds down."""
    return (width + 0.5) / 100, (height + 0.5) / 100


def pixels(figure: Figure) -> Picture:
    """Draw the figure and return its pixels."""
    canvas = FigureCanvasAgg(figure)
    with boxes_for_unknown():
        canvas.draw()  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def boxes_for_unknown() -> Iterator[None]:
    """Draw letters that no font has as boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def check_scale(scale: float) -> None:
    """Raise if a colour scale is not positive and finite.

    Raises:
        ValueError: if it is not.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"`scale` must be positive and finite, got {scale}.")


def check_count(what: str, counts: Sequence[int]) -> None:
    """Raise if parts differ in length.

    Raises:
        ValueError: if they differ, or are 0.
    """
    if len(set(counts)) != 1 or counts[0] == 0:
        raise ValueError(f"{what} must have the same length, at least 1; got {', '.join(map(str, counts))}.")
