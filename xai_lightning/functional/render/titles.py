"""Titles of samples beside their pictures: up to three short lines."""

from collections.abc import Sequence

from xai_lightning.functional.render.sheets import breadth, fitted

LINES, SIZE, NARROWEST, WIDEST = 3, 8, 132, 260


def lined(title: str) -> str:
    """The first three lines of ``title``, each shortened in the middle to at most 248 pixels."""
    return "\n".join(fitted([line], WIDEST - 12, SIZE)[0] for line in title.splitlines()[:LINES])


def margin(titles: Sequence[str]) -> int:
    """Width in pixels of the left margin, in which all ``titles`` fit: 132 to 260."""
    lines = [line for title in titles for line in lined(title).splitlines()]
    return max(NARROWEST, min(WIDEST, 12 + round(max((breadth(line, SIZE) for line in lines), default=0.0))))
