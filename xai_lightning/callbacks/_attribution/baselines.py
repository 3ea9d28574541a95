"""The baselines that the samples of a probe are compared with."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.attribution.baselines import BASELINES, blurred, padded, uniform
from xai_lightning.functional.attribution.choices import is_number
from xai_lightning.functional.tables import choose
from xai_lightning.readers.batch import describe

if TYPE_CHECKING:
    from xai_lightning.callbacks._attribution.ways import Ways

BACKGROUND = 16
FROM_DATA = ("mean", "background")


class Seen(NamedTuple):
    """Mean ``[1, ...]`` and up to 16 rows ``[B, ...]`` of each explained input, from the data seen."""

    mean: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]


class Against(NamedTuple):
    """One baseline for all samples or one for each, and a background for methods that use several; a tensor per input.

    If each sample has a baseline of its own there is no background, as no other sample may change its explanation.
    """

    points: tuple[Tensor, ...]
    background: tuple[Tensor, ...] | None

    def embedded(self, embed: Callable[[Tensor], Tensor]) -> "Against":
        """The same with the first input embedded, if it holds token ids."""
        first = self.points[0]
        if first.is_floating_point():
            return self
        points = (embed(first), *self.points[1:])
        background = self.background
        return Against(points, None if background is None else (embed(background[0]), *background[1:]))


class Baselines:
    """The baseline that the settings ask for.

    Args:
        ways: how samples are explained.
    """

    def __init__(self, ways: "Ways") -> None:
        self._ways = ways
        several = isinstance(ways.baseline, list | tuple)
        # a method that takes values from other rows has nothing to take from a single one
        default = "background" if ways.spec is not None and ways.spec.donors else None
        self._each = tuple(ways.baseline) if several else (default if ways.baseline is None else ways.baseline,)

    @property
    def rows(self) -> int:
        """How many rows the background has, as far as that is known before any data."""
        first = self._each[0]
        if isinstance(first, Tensor):
            return len(first) if first.ndim > 1 else 1
        return BACKGROUND if isinstance(first, str) and first == "background" else 1

    def check(self) -> None:
        """Refuse unknown names, values that are no name, number or tensor, and single rows where several are needed.

        Raises:
            ValueError: on such a baseline; lists the known names.
        """
        for each in self._each:
            if isinstance(each, str):
                choose("baseline", each, BASELINES)
            elif not (each is None or isinstance(each, Tensor) or is_number(each)):
                raise ValueError(
                    f"baseline must be a finite number, one of {', '.join(BASELINES)}, or a tensor; got {each!r:.50}"
                )
        spec = self._ways.spec
        if spec is not None and spec.donors and not all(_several(each) for each in self._each):
            raise ValueError(
                f"method {self._ways.label!r} replaces values by those of other rows: baseline must be 'background' "
                f"or a tensor of several rows; got {self._ways.baseline!r}"
            )

    def suit(self, inputs: Sequence[Tensor]) -> None:
        """Refuse baselines that cannot stand for "absent" in ``inputs``.

        Raises:
            ValueError: if there is neither one for all inputs nor one for each, if ``pad`` or special tokens are given
                for inputs that are not token ids, or if the baseline of token ids cannot be an id.
        """
        if len(self._each) not in (1, len(inputs)):
            raise ValueError(
                f"baseline must be a single one for all inputs, or a list with one for each of the {len(inputs)} "
                f"inputs; got a list of {len(self._each)}: {self._ways.baseline!r}"
            )
        wanted = self._each * len(inputs) if len(self._each) == 1 else self._each
        for x, each in zip(inputs, wanted, strict=True):
            if isinstance(each, str) and each == "pad" and x.is_floating_point():
                raise ValueError(
                    f"baseline='pad' is for token ids, but this input is {describe(x)}; use 'zero' or 'mean'"
                )
        ids, first = inputs[0], wanted[0]
        if self._ways.special_tokens and ids.is_floating_point():
            raise ValueError(
                f"special_tokens={list(self._ways.special_tokens)} needs token ids as input, but the input is "
                f"{describe(ids)}; leave special_tokens out"
            )
        averages = isinstance(first, str) and first in ("mean", "blur")
        broken = is_number(first) and first != int(first)
        if self._ways.tokens and (averages or broken):
            raise ValueError(
                f"baseline={first!r} is not a token id, and an average of ids would be an unrelated token; use 'pad', "
                "'background', an id, or a tensor of ids"
            )

    @property
    def from_data(self) -> bool:
        """Whether a baseline is taken from the validation data."""
        return any(isinstance(each, str) and each in FROM_DATA for each in self._each)

    def of(
        self,
        inputs: Sequence[Tensor],
        layouts: Sequence[str],
        seeds: Sequence[int],
        seen: Seen | None,
        left_out: Tensor | None,
    ) -> Against:
        """Baselines of ``inputs``.

        Args:
            inputs: ``[M, ...]`` each; token ids where they are embedded later.
            layouts: layout of each input.
            seeds: one per sample.
            seen: mean and rows of the data; None in a rehearsal, where rows of ``inputs`` stand in.
            left_out: ``bool[M, T]``, tokens that the baseline keeps.
        """
        wanted = self._each * len(inputs) if len(self._each) == 1 else self._each
        points, background = [], []
        for i, (x, each, layout) in enumerate(zip(inputs, wanted, layouts, strict=True)):
            rows = self._rows(x, each, layout, i, seeds, seen, left_out if i == 0 else None)
            background.append(rows)
            points.append(rows if _own(each) and len(rows) == len(x) else rows[:1])
        own = any(len(rows) > 1 and _own(each) for rows, each in zip(background, wanted, strict=True))
        return Against(tuple(points), None if own else tuple(background))

    def _rows(
        self,
        x: Tensor,
        wanted: object,
        layout: str,
        i: int,
        seeds: Sequence[int],
        seen: Seen | None,
        left_out: Tensor | None,
    ) -> Tensor:
        if isinstance(wanted, Tensor):
            return _shaped(wanted.to(x), x)
        if wanted in FROM_DATA:
            # in the trial on the first batch, before any data were seen, its own rows stand in
            known = None if seen is None else (seen.mean if wanted == "mean" else seen.rows)[i].to(x)
            return known if known is not None else x[:BACKGROUND] if wanted == "background" else x[:1]
        if wanted == "blur":
            series = (1,) if self._ways.time_first else (2,)
            return blurred(x, {"image": (2, 3), "series": series}.get(layout, tuple(range(1, x.ndim))))
        if wanted == "uniform":
            return uniform(x, seeds)
        if wanted == "pad" or (wanted is None and self._ways.tokens and i == 0):
            return padded(
                x, self._ways.pad_token, torch.zeros_like(x, dtype=torch.bool) if left_out is None else left_out
            )
        number = 0.0 if wanted in ("zero", None) else float(str(wanted))
        return torch.full_like(x[:1], number)


def _several(wanted: object) -> bool:
    return len(wanted) > 1 if isinstance(wanted, Tensor) else wanted == "background"


def _own(wanted: object) -> bool:
    """Whether each sample has a baseline of its own."""
    return wanted in ("blur", "uniform", "pad", None) if not isinstance(wanted, Tensor) else False


def _shaped(baseline: Tensor, x: Tensor) -> Tensor:
    """The rows of a baseline that broadcasts to one input of ``x``, or already has one or several such rows."""
    shape = x.shape[1:]
    if baseline.shape[1:] == shape:
        return baseline
    try:
        return baseline.expand(shape)[None]
    except RuntimeError as error:
        raise ValueError(
            f"baseline must have the shape of one input, {list(shape)}; got {list(baseline.shape)}"
        ) from error
