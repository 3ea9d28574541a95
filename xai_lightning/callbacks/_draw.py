"""A uniform draw of samples per stratum that does not depend on the order of the data."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning.callbacks._selection import Kept
from xai_lightning.functional.activation import fused
from xai_lightning.functional.precision import moved
from xai_lightning.functional.rng import GOLDEN, mixed, random_words

RUN = 16
HASHED = 1024
"""How many of a row's numbers are hashed at most: hashing all of a large row takes longer than the step on it."""
_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def sample_hash(inputs: Tensor, seed: int) -> Tensor:
    """A seeded 64-bit hash of the bits of each sample.

    Args:
        inputs: ``[N, ...]``, any dtype.
        seed: selects the draw.

    Returns:
        ``int64[N]``, the same in any batching and on any device.

    References:
        G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    words = _words(inputs.detach().reshape(len(inputs), -1))
    place = torch.arange(1, words.shape[1] + 1, device=words.device, dtype=torch.int64)
    each = mixed(words + place * GOLDEN + seed)
    return mixed(each.sum(dim=1))


def _words(flat: Tensor) -> Tensor:
    """The bits of each number as ``int64``."""
    flat = torch.view_as_real(flat).flatten(1) if flat.is_complex() else flat
    return (flat.view(_WORDS[flat.element_size()]) if flat.is_floating_point() else flat).to(torch.int64)


def _places(width: int, most: int) -> Tensor:
    """Which of ``width`` numbers are hashed, at random: an even stride could hit a single channel or column only."""
    return random_words([width], most)[0].abs() % width


def _runs(width: int, most: int) -> tuple[Tensor, Tensor]:
    """Starts of the runs of numbers to hash, ``int64[G]``, and the positions of all these numbers, ``int64[G * 16]``.

    The row is split into G parts with one run at a random place in each. Memory is read in lines of about this size,
    so that reading single numbers would take as long.
    """
    parts = torch.arange(most // RUN + 1, device="cpu") * (width // RUN) // (most // RUN)
    starts = (parts[:-1] + random_words([width], most // RUN)[0].abs() % parts.diff()) * RUN
    return starts, (starts[:, None] + torch.arange(RUN, device="cpu")).flatten()


class _Known(NamedTuple):
    """The positions of the numbers to hash, ``int64[M]`` (None: all), their weights, and both as numpy arrays."""

    width: int
    places: Tensor | None
    weights: Tensor
    arrays: tuple[Any, Any, Any] | None


class Share:
    """Draws a share of the samples by a hash of their inputs: the same samples in any batching, order and rank.

    The hash is multilinear, followed by one more multiplication: a fifth of the work of `sample_hash`.

    Args:
        share: of the samples, above 0 and at most 1.
        seed: selects the draw.
        most: how many of a sample's numbers are hashed at most, a multiple of 16.

    Example:
        >>> chosen = Share(0.25, seed=0, most=64).of(torch.arange(4000.0).view(2000, 2))
        >>> 450 < int(chosen.sum()) < 550
        True

    References:
        O. Kaser, D. Lemire, Strongly universal string hashing is fast, The Computer Journal 57, 2014.
    """

    def __init__(self, share: float, seed: int, most: int) -> None:
        self._least = 2**63 - max(1, round(share * 2**64))
        self._first, self._seed, self._most = int(random_words([seed], 1)), seed, most
        self._known: _Known | None = None
        self._drawn: Any = ()

    def of(self, inputs: Tensor) -> Tensor:
        """Whether each sample of ``inputs`` (``[N, ...]``) is drawn, ``bool[N]``."""
        return self.among(inputs).mask

    def among(self, inputs: Tensor) -> Kept:
        """The samples of ``inputs`` that are drawn; valid until the next draw."""
        n = inputs.shape[0]
        known = self._known_by(inputs.numel() // max(n, 1))
        if known.arrays is None or not fused.takes_rows(inputs):
            return Kept(self._mask(inputs.detach().reshape(n, -1), known))
        if len(self._drawn) < n:
            # zeros, because a pickle made during a validation must not contain stale memory
            self._drawn = torch.zeros(n, dtype=torch.int64, device="cpu").numpy()
        count = fused.draw_rows(inputs, *known.arrays, self._drawn)
        return Kept(None, self._drawn, count, n)

    def _mask(self, flat: Tensor, known: _Known) -> Tensor:
        _, places, weights, _ = known
        words = _words(flat if places is None else flat.index_select(1, places.to(flat.device)))
        if flat.element_size() == 8:
            # the lowest bits of most doubles are 0, so their products would not reach the highest bits of a sum
            words = words ^ words >> 32
        sums = (words * weights.to(words.device)).sum(1) + self._first
        # sums of evenly spaced numbers are evenly spaced, so they are mixed once more
        return (sums ^ sums >> 32) * GOLDEN >= self._least

    def _known_by(self, width: int) -> _Known:
        if self._known is None or self._known.width != width:
            # tensors made in inference mode could not be used outside it (trap 1)
            with torch.inference_mode(False):
                starts, places = _runs(width, self._most) if width > self._most else (None, None)
                weights = random_words([~self._seed], width if places is None else len(places))[0] | 1
                numbers = torch.tensor([self._first, GOLDEN, self._least], device="cpu")
            arrays = None if starts is None else (starts.numpy(), weights.view(-1, RUN).numpy(), numbers.numpy())
            self._known = _Known(width, places, weights, arrays)
        return self._known


def row_hash(inputs: Sequence[Tensor], seed: int, most: int | None = None) -> Tensor:
    """A hash of each sample over several inputs, ``int64[N]``; over about ``most`` numbers of each input, if given."""
    hashes = torch.zeros(len(inputs[0]), dtype=torch.int64, device=inputs[0].device)
    for i, x in enumerate(inputs):
        flat = x.reshape(len(x), -1)
        some = most is not None and flat.shape[1] > most
        thinned = flat.index_select(1, _places(flat.shape[1], most).to(x.device)) if some and most is not None else x
        own = sample_hash(thinned, seed + i)
        hashes = own if i == 0 else mixed(hashes + own.to(hashes.device))
    return hashes


def known_by(inputs: Tensor, targets: Tensor, extras: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors that identify a sample: all that is kept of it except its class, which is its stratum."""
    classes = targets.ndim == 1 and not targets.is_floating_point()
    return (inputs, *extras) if classes else (inputs, *extras, targets)


class Rows(NamedTuple):
    """Samples on the CPU: hashes and strata ``int64[M]``, inputs ``[M, ...]``, targets ``[M]``, further arguments."""

    hashes: Tensor
    strata: Tensor
    inputs: Tensor
    targets: Tensor
    extras: tuple[Tensor, ...]

    def on(self, device: torch.device) -> "Rows":
        """Copies of the inputs, targets and further arguments on ``device``; hashes and strata stay on the CPU."""
        inputs, targets = moved(self.inputs, device).clone(), moved(self.targets, device).clone()
        return Rows(self.hashes, self.strata, inputs, targets, tuple(moved(x, device).clone() for x in self.extras))

    def take(self, index: Tensor) -> "Rows":
        """The rows at ``index``."""
        hashes, strata, inputs, targets, extras = self
        kept = tuple(extra[index] for extra in extras)
        return Rows(hashes[index], strata[index], inputs[index], targets[index], kept)

    def join(self, other: "Rows") -> "Rows":
        """These rows, followed by ``other``."""
        return Rows(
            torch.cat([self.hashes, other.hashes]),
            torch.cat([self.strata, other.strata]),
            torch.cat([self.inputs, other.inputs]),
            torch.cat([self.targets, other.targets]),
            tuple(torch.cat(pair) for pair in zip(self.extras, other.extras, strict=True)),
        )


def some(rows: Rows | None) -> Rows | None:
    """``rows``, or None if they are empty."""
    return rows if rows is not None and len(rows.hashes) else None


def smallest(hashes: Tensor, strata: Tensor, quota: int, *, pooled: bool = False) -> Tensor:
    """Indices of the ``quota`` smallest distinct hashes of each stratum, ordered by stratum and hash.

    Args:
        hashes: ``int64[M]``.
        strata: ``int64[M]``.
        quota: how many per stratum, or in total if ``pooled``.
        pooled: draw from all strata as one.

    Returns:
        ``int64[R]``; among equal hashes in one draw, the one of the smallest stratum whatever the order, and the first
        of these.
    """
    order = strata.argsort(stable=True)
    order = order[hashes[order].argsort(stable=True)]
    if not pooled:
        order = order[strata[order].argsort(stable=True)]
    h, s = hashes[order], strata[order] * (not pooled)
    if len(order) == 0:
        return order
    new = torch.ones_like(h, dtype=torch.bool)
    new[1:] = (h[1:] != h[:-1]) | (s[1:] != s[:-1])
    order, s = order[new], s[new]
    begins = torch.ones_like(s, dtype=torch.bool)
    begins[1:] = s[1:] != s[:-1]
    place = torch.arange(len(s), device=s.device)
    start = torch.where(begins, place, 0).cummax(dim=0).values
    return order[place - start < quota]


class Candidates:
    """The best candidates for the probe among the samples seen so far; memory is bounded by strata times quota.

    While ``pooled``, strata are recorded but ignored by the draw, and the quota applies to all samples together.

    Args:
        quota: samples per stratum.
        seed: selects the draw.
        hashed: how many of a sample's numbers are hashed at most, at random places; None: all.
    """

    def __init__(self, quota: int, seed: int, hashed: int | None = None) -> None:
        self.quota, self._seed, self._hashed = quota, seed, hashed
        self.pooled = False
        self.rows: Rows | None = None

    def offer(
        self,
        inputs: Tensor,
        targets: Tensor,
        strata: Tensor,
        extras: Sequence[Tensor],
        real: Tensor,
    ) -> None:
        """Consider one batch.

        Args:
            inputs: ``[N, ...]``.
            targets: ``[N]``.
            strata: ``int64[N]``.
            extras: whatever else is kept of each sample: further arguments of the network, regions.
            real: ``bool[N]``, which samples are not padding.
        """
        if self.rows is not None and self.rows.inputs.shape[1:] != inputs.shape[1:]:
            earlier, now = list(self.rows.inputs.shape[1:]), list(inputs.shape[1:])
            raise ValueError(
                f"samples of this batch have the shape {now}, but earlier ones {earlier}; the probe needs a single "
                "shape: pad to a fixed length (for token ids, pad_to=... does so without changing the batches), or "
                "give probe=... samples of one shape"
            )
        known = known_by(inputs, targets, extras)
        hashes, strata = row_hash(known, self._seed, self._hashed).cpu(), strata.cpu()
        promising = real.cpu().nonzero().flatten()
        promising = promising[smallest(hashes[promising], strata[promising], self.quota, pooled=self.pooled)]
        # targets that come from elsewhere, such as the model's own predictions, may be on another device
        columns = [x.detach()[promising.to(x.device)].cpu().clone() for x in (inputs, targets, *extras)]
        new = Rows(hashes[promising], strata[promising], columns[0], columns[1], tuple(columns[2:]))
        joined = new if self.rows is None else self.rows.join(new)
        self.rows = joined.take(smallest(joined.hashes, joined.strata, self.quota, pooled=self.pooled))
