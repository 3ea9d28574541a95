"""What values each setting accepts, by name: one table for all constructors, so a name means the same in each."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from xai_lightning.readers import Column, Table
from xai_lightning.readers.batch import describe

LONGEST = 60
"""Characters of a value that a message or a `repr` shows."""
MOST = 4
"""Items of a container that a message or a `repr` shows."""


class Kind(NamedTuple):
    """The values that a setting accepts.

    Args:
        accepts: whether a value is acceptable; called with any object.
        words: what the value must be, for the error message.
    """

    accepts: Callable[[Any], bool]
    words: str

    def or_none(self) -> "Kind":
        """The same kind, which also accepts None."""
        return Kind(lambda value: value is None or self.accepts(value), self.words)


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types)


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _listed(*types: type) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        # a string is a sequence too, and its letters would be taken for names
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return is_list and all(isinstance(item, types) and not isinstance(item, bool) for item in value)

    return accepts


def _names(example: str) -> Kind:
    return Kind(_listed(str), f"a list, such as [{example}]")


def _mapping(example: str) -> Kind:
    return Kind(_is(Mapping), f"a dict, such as {example}")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _listed(str)(value)


# 0 and 1 are accepted, other truthy values are not: the string "False" would turn on what it is meant to turn off
FLAG = Kind(lambda value: isinstance(value, Real | np.bool_) and value in (False, True), "True or False")
WHOLE = Kind(_whole, "a whole number")
NUMBER = Kind(lambda value: isinstance(value, Real) and not isinstance(value, bool), "a number")
MODULE = Kind(_is(str), "the name of a submodule, such as 'encoder.head'").or_none()
COLUMNS = Kind(_listed(Integral), "a list of columns, such as [0, 3]")
INDEX = Kind(lambda value: _whole(value) and value >= 0, "a whole number and must not be negative")

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("log_inputs", "autocast", "pictures", "custom_scalars", "exact", "multi_label"), FLAG),
    **dict.fromkeys(("utility_floor", "verbose", "auto_insert_metric_name", "enable_version_counter"), FLAG),
    **dict.fromkeys(("network", "layer", "embedding"), MODULE),
    **dict.fromkeys(("max_layers", "max_groups", "replicates", "save_top_k"), WHOLE),
    **dict.fromkeys(("reference_after", "noise_every", "every_n_validations"), WHOLE),
    **dict.fromkeys(("probe_size", "sample_size", "pad_to", "n_classes", "positive_class", "horizon"), WHOLE.or_none()),
    **dict.fromkeys(("share", "delta"), NUMBER),
    **dict.fromkeys(("threshold", "max_overhead"), NUMBER.or_none()),
    "dataloader_idx": INDEX,
    "output_key": Kind(
        lambda value: isinstance(value, str) or _whole(value),
        "the name or position of one of the tensors that the network returns, such as 'logits' or 1",
    ).or_none(),
    "name": Kind(_is(str), "a string"),
    "monitor": Kind(_is(str), "the name of a metric, such as 'val_loss'").or_none(),
    "filename": Kind(_is(str), "a string, such as '{epoch}-{val_loss:.2f}'").or_none(),
    "dirpath": Kind(_is(str, os.PathLike), "a folder").or_none(),
    "mode": Kind(lambda value: isinstance(value, str) and value in ("min", "max"), "'min' or 'max'"),
    "reader": Kind(
        lambda value: isinstance(value, Mapping) or callable(value),
        "a dict such as {'input': 'image', 'target': 'label'}, or a callable",
    ).or_none(),
    "groups": _mapping("{'sex': ['Female', 'Male']}").or_none(),
    "groups_from": Kind(
        lambda value: isinstance(value, Column | Table | Mapping) or callable(value),
        "a Column, a Table, a callable of the batch, or a dict from attribute to these",
    ).or_none(),
    "mask": Kind(
        lambda value: isinstance(value, str) or _whole(value) or callable(value),
        "the name or position of an entry of the batch, or a callable",
    ).or_none(),
    "layers": Kind(_listed(str, type), "a list of patterns and types, such as ['encoder.*', nn.ReLU]").or_none(),
    "statistics": Kind(
        lambda value: isinstance(value, str) or _listed(str)(value), "'default', 'cheap', or a list of names"
    ),
    "representation": Kind(
        lambda value: isinstance(value, bool) or _listed(str)(value), "True, False, or a list of patterns"
    ),
    "sinks": Kind(lambda value: isinstance(value, list | tuple), "a list, such as [MemorySink()]"),
    "best_of": Kind(_is_pair, "a metric and 'min' or 'max', such as ('val_loss', 'min')").or_none(),
    "measures": _names("'cosine'").or_none(),
    "references": _names("'first'").or_none(),
    "metrics": _names("'equalized_odds_difference'").or_none(),
    "sensitive": _names("'age'"),
    "proxies": _names("'occupation'"),
    "inputs": _names("'mask'"),
    "special_tokens": Kind(_listed(object), "a list of token ids, such as [101, 102]"),
    "features": _mapping("{'age': 0, 'job': slice(1, 9)}").or_none(),
    "regions": _mapping("{'corner': (0, 0, 4, 4)}").or_none(),
    "options": _mapping("{'n_steps': 20}").or_none(),
    "own_metrics": _mapping("{'cost': Metric(...)}").or_none(),
    "given": _mapping("{'sex': 'job'}").or_none(),
    "flips": _mapping("{'sex': Column(0, 9)}").or_none(),
    "consistency_features": COLUMNS.or_none(),
}
"""Settings that are checked elsewhere have no row here, or one that only checks their type."""


def check_kinds_of(given: Mapping[str, Any]) -> None:
    """Refuse values that the setting of that name never accepts.

    Args:
        given: settings by name; those without a row in `KINDS` pass.

    Raises:
        TypeError: names the setting, what it must be and what was given.

    Example:
        >>> check_kinds_of({"log_inputs": "False"})
        Traceback (most recent call last):
        TypeError: log_inputs must be True or False; got 'False'
    """
    for name, value in given.items():
        kind = KINDS.get(name)
        if kind is not None and not kind.accepts(value):
            raise TypeError(f"{name} must be {kind.words}; got {brief(value)}")


def brief(value: Any, depth: int = 2) -> str:
    """``value`` in one line, for messages and `repr`: plain values as they are, others by their name or type.

    Example:
        >>> brief({"n_steps": 20}), brief(slice(1, 9)), brief(lambda batch: batch)
        ("{'n_steps': 20}", 'slice(1, 9, None)', '<lambda>')
        >>> brief([1, 2, 3, 4, 5])
        '[1, 2, 3, 4, ...]'
    """
    if isinstance(value, Tensor | np.ndarray):
        return describe(value)
    if isinstance(value, str | bytes) and len(value) > LONGEST:
        return f"{value[:LONGEST]!r}... of {len(value)}"
    if isinstance(value, str | bytes | int | float | slice | Column | Table | type(None)):
        return repr(value)
    if isinstance(value, list | tuple | set | Mapping):
        return _brief_of_many(value, depth)
    return str(getattr(value, "__name__", f"<{type(value).__name__}>"))


def _brief_of_many(value: Any, depth: int) -> str:
    left, right = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
    if value and not depth:
        return f"{left}...{right}"
    if isinstance(value, Mapping):
        items = [f"{brief(key, depth - 1)}: {brief(item, depth - 1)}" for key, item in [*value.items()][:MOST]]
    else:
        items = [brief(item, depth - 1) for item in [*value][:MOST]]
    more = ", ..." if len(value) > MOST else "," if left == "(" and len(value) == 1 else ""
    return f"{left}{', '.join(items)}{more}{right}"


def other_than_default(constructor: Callable[..., None], given: Mapping[str, Any]) -> str:
    """The settings that differ from their defaults, written as in a call.

    Args:
        constructor: the function whose signature holds the defaults.
        given: settings by name; names that the constructor does not have are ignored.
    """
    parts = []
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name == "self" or given[name] is parameter.default or _equal(given[name], parameter.default):
            continue
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        parts.append(brief(given[name]) if positional else f"{name}={brief(given[name])}")
    return ", ".join(parts)


def _equal(value: object, default: object) -> bool:
    # comparing values of other types may fail or give an array
    return isinstance(value, str | int | float | tuple) and type(value) is type(default) and value == default
