"""Inputs that keep only some variables, and have the baseline's numbers for the others."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from xai_lightning.functional.attribution import fast
from xai_lightning.functional.attribution.coalitions import Coalitions
from xai_lightning.functional.precision import exact_device

_BITS = {4: torch.int32, 8: torch.int64}


def bits(inputs: Tensor, baselines: Tensor) -> torch.dtype | None:
    """The integer type as which the bits of both can be viewed; None if there is none.

    ``b ^ ((x ^ b) & inside)`` is x where all bits of ``inside`` are set and b where none is, whatever the values, and
    takes a fifth of the time that ``torch.where`` does.
    """
    return _BITS.get(inputs.element_size()) if inputs.dtype == baselines.dtype else None


def on_numbers(found: Tensor, mask: Tensor) -> Tensor:
    """The value of each variable ``[N, V]``, repeated on each of its numbers: ``[N, ...]``.

    Args:
        found: the value of each variable.
        mask: ``[1, ...]``, the variable of each number.
    """
    # `gather` uses threads, unlike `index_select`
    return found.gather(1, mask.view(1, -1).expand(len(found), -1)).view(len(found), *mask.shape[1:])


def distinct(rows: Tensor) -> Tensor:
    """The rows, or a single one if it is merely expanded: ``[N or 1, ...]``."""
    return rows[:1] if rows.stride(0) == 0 else rows


def first_rows(rows: Tensor, count: int) -> Tensor:
    """The first ``count`` rows; raises if there are fewer, since loops would write beyond them."""
    if count > len(rows):
        raise ValueError(f"there is room for {len(rows)} rows; got {count}")
    return rows[:count]


def _of(rows: Tensor, some: slice) -> Tensor:
    return rows if len(rows) == 1 else rows[some]


class Mixture:
    """Inputs with the variables of each coalition, and the baseline's numbers for the others.

    Args:
        inputs: ``[N, ...]``.
        baselines: like the inputs.
        mask: ``[1, ...]``, the variable of each number.
        coalitions: of each sample.
        room: the maximum number of rows mixed at once; the next ones overwrite them.
    """

    def __init__(self, inputs: Tensor, baselines: Tensor, mask: Tensor, coalitions: Coalitions, room: int) -> None:
        self._inputs, self._baselines, self._mask, self._coalitions = inputs, baselines, mask[0], coalitions
        self._bits = bits(inputs, baselines) if coalitions.words is not None else None
        if self._bits is None or coalitions.words is None:
            return
        self._rows = inputs.new_empty(room, inputs[0].numel())
        self._x, self._b = (x.flatten(1).contiguous().view(self._bits) for x in (inputs, distinct(baselines)))
        # shifts a variable's bit to the sign, which is then spread over all bits
        self._sign = torch.iinfo(self._bits).bits - 1
        self._shift = (self._sign - self._mask.flatten()).to(self._bits)
        self._mixer = self._mixer_of(coalitions.words) if fast.takes(inputs, baselines, coalitions.words) else None

    def _mixer_of(self, words: Tensor) -> fast.Mixer:
        return fast.Mixer(self._x, self._b, self._shift, words.contiguous(), self._rows.view(torch.int32))

    def of(self, samples: range, drawn: range) -> Tensor:
        """Inputs ``[N' * S', ...]`` of some samples with some of their coalitions."""
        some, these = slice(samples.start, samples.stop), slice(drawn.start, drawn.stop)
        shape = self._inputs.shape[1:]
        if self._bits is None or self._coalitions.words is None:
            x, b = self._inputs[some], self._baselines[some]
            inside = self._coalitions.present[some, these][:, :, self._mask]
            return torch.where(inside, x[:, None], b[:, None]).flatten(0, 1)
        rows = first_rows(self._rows, len(samples) * len(drawn))
        if self._mixer:
            whole = len(drawn) == self._coalitions.words.shape[1]
            mixer = self._mixer if whole else self._mixer_of(self._coalitions.words[:, these])
            mixer(samples.start, len(samples))
            return rows.view(-1, *shape)
        words, x, b = self._coalitions.words[some, these], self._x[some], _of(self._b, some)
        inside = rows.view(self._bits).view(*words.shape, -1)
        torch.bitwise_left_shift(words.to(self._bits)[..., None], self._shift, out=inside)
        inside.bitwise_right_shift_(self._sign).bitwise_and_((x ^ b)[:, None]).bitwise_xor_(b[:, None])
        return rows.view(-1, *shape)


class Without:
    """Inputs in which one variable has the baseline's numbers.

    Args:
        inputs: ``[N, ...]``.
        baselines: like the inputs.
        mask: ``[1, ...]``, the variable of each number.
    """

    def __init__(self, inputs: Tensor, baselines: Tensor, mask: Tensor) -> None:
        self._inputs, self._baselines, self._mask = inputs, baselines, mask[0]
        self._owner, self._bits = mask.flatten().int(), bits(inputs, baselines)
        if self._bits is not None:
            self._x, self._b = (x.flatten(1).contiguous().view(self._bits) for x in (inputs, distinct(baselines)))

    def effective(self, number: int) -> Tensor:
        """Which of ``number`` variables have numbers that differ from the baseline's, ``bool[N, V]``.

        For types that cannot be compared bit for bit, all variables that have numbers.
        """
        owner = self._owner
        has = torch.zeros(number, dtype=torch.bool, device=owner.device).index_fill_(0, owner.long(), True)
        if self._bits is None:
            return has.expand(len(self._inputs), number)
        if fast.takes(self._inputs, self._baselines):
            return fast.effective(self._x, self._b, owner, has)
        differs = (self._x != self._b).int()
        return differs.new_zeros(len(differs), number).index_add_(1, owner, differs) > 0

    def prepare(self, samples: Tensor, variables: Tensor, room: int) -> None:
        """Allocate the rows, which each further call of `of` overwrites.

        Args:
            samples: ``int64[F]``, the sample of each form.
            variables: ``int64[F]``, the variable that it lacks.
            room: the maximum number of rows at once.
        """
        self._forms, self._leaver = (samples, variables), None
        if self._bits is None:
            return
        self._rows = self._inputs.new_empty(room, self._inputs[0].numel())
        if fast.takes(self._inputs, self._baselines):
            given = self._x, self._b, self._owner, self._rows.view(torch.int32)
            self._leaver = fast.Leaver(samples, variables, *given)

    def of(self, forms: range) -> Tensor:
        """Inputs ``[F', ...]`` of some of the forms."""
        shape, some = self._inputs.shape[1:], slice(forms.start, forms.stop)
        if self._leaver:
            rows = first_rows(self._rows, len(forms))
            self._leaver(forms)
            return rows.view(-1, *shape)
        samples, variables = (each[some] for each in self._forms)
        left_out = self._mask == variables.view(-1, *[1] * self._mask.ndim)
        if self._bits is None:
            return torch.where(left_out, self._baselines[samples], self._inputs[samples])
        rows = first_rows(self._rows, len(forms))
        x, b, off = self._x[samples], _of_each(self._b, samples), left_out.flatten(1).to(self._bits).neg_()
        torch.bitwise_and(x ^ b, off, out=rows.view(self._bits)).bitwise_xor_(x)
        return rows.view(-1, *shape)


def _of_each(rows: Tensor, samples: Tensor) -> Tensor:
    return rows if len(rows) == 1 else rows[samples]


def blocks(count: int, most: int) -> list[range]:
    """Blocks of at most ``most``, nearly equal in size: a short last block would take longer per row."""
    number = math.ceil(count / max(1, most))
    return [range(count * i // number, count * (i + 1) // number) for i in range(number)]


def scalars(
    forward: Callable[..., Tensor],
    parts: Sequence[Mixture],
    extras: Sequence[Tensor],
    shape: tuple[int, int],
    at_once: int,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, torch.dtype]:
    """The scalar ``[N, S]`` of each sample in each of its forms: several samples at once, or some forms of one.

    Args:
        forward: maps inputs ``[M, ...]`` to scalars ``[M]``.
        parts: one for each input.
        extras: further arguments, a row per sample.
        shape: the numbers of samples N and forms S.
        at_once: how many rows one forward pass may have.
        dtype: type of the result; by default that of the network's scalars.

    Returns:
        The scalars, and the type of the network's scalars.
    """
    samples, forms = shape
    beside = [extra[:, None].expand(samples, forms, *extra.shape[1:]) for extra in extras]

    def passes() -> Iterator[Tensor]:
        for some in blocks(samples, at_once // forms):
            for these in blocks(forms, at_once):
                rows = (extra[some.start : some.stop, these.start : these.stop].flatten(0, 1) for extra in beside)
                yield forward(*(part.of(some, these) for part in parts), *rows)

    found, kind = in_line(passes(), samples * forms, dtype)
    return found.view(samples, forms), kind


def in_line(passes: Iterable[Tensor], count: int, dtype: torch.dtype | None = None) -> tuple[Tensor, torch.dtype]:
    """The scalars of successive passes in one flat tensor, of the given or their own type; and their own type."""
    found, kind, place = torch.empty(0, device="cpu"), torch.float32, 0
    for values in passes:
        if not place:
            kind = values.dtype
            home = exact_device(values.device) if dtype == torch.float64 else values.device
            found = torch.empty(count, dtype=dtype or kind, device=home)
        found[place : place + len(values)] = values
        place += len(values)
    return found, kind
