"""How samples are explained: the settings, checked, and what follows from them alone."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from xai_lightning.callbacks._attribution.regions import Region
from xai_lightning.callbacks._record import stable
from xai_lightning.functional import attribution
from xai_lightning.functional.attribution import METHODS, Custom, Method, Smooth, check_method
from xai_lightning.functional.attribution.variables import Where
from xai_lightning.readers import Outputs

LAYOUTS = ("NCT", "NTC")
TAKEN = {"activation", "errors", "fairness", "nonfinite_predictions"}
Target = Literal["label", "reference_prediction", "predicted"] | int


@dataclass(frozen=True)
class Ways:
    """How samples are explained; see `AttributionMonitor` for each."""

    method: str | Custom
    options: Mapping[str, Any]
    task: attribution.Task
    outputs: Outputs
    target: Target
    baseline: Any
    features: Mapping[str, Where] | None
    inputs: Sequence[str] = ()
    output_key: int | str | None = None
    layer: str | None = None
    smooth: Smooth | None = None
    embedding: str | None = None
    pad_token: int = 0
    special_tokens: Sequence[int] = ()
    time_first: bool = False
    regions: Mapping[str, Region] = field(default_factory=dict)
    texts: bool = False
    seed: int = 0
    autocast: bool = False

    @property
    def tokens(self) -> bool:
        """Whether the first input holds token ids, some of which are padding or special."""
        return self.texts or self.embedding is not None or bool(self.special_tokens) or self.baseline == "pad"

    @property
    def spec(self) -> Method | None:
        """The method's row of the table; None for a callable."""
        return METHODS[self.method] if isinstance(self.method, str) else None

    @property
    def label(self) -> str:
        """The method's name in logged names; for a callable its own, with a suffix if that is taken below ``xai/``."""
        if isinstance(self.method, str):
            return f"{self.method}_{self.smooth}" if self.smooth else self.method
        name = str(getattr(self.method, "__name__", "custom"))
        return f"{name}_method" if name in TAKEN or name in METHODS else name

    @property
    def complete(self) -> bool:
        """Whether attributions should add up to the change of the scalar."""
        return self.spec is not None and self.spec.complete and not self.smooth

    @property
    def draws(self) -> bool:
        """Whether other seeds give other maps, so that there is noise to tell from drift."""
        return self.spec is None or self.spec.random or bool(self.smooth)

    def by_chance(self, shape: Sequence[int], variables: int) -> bool:
        """Whether other seeds give other maps of inputs of ``shape``: with few variables a method may draw nothing."""
        if not isinstance(self.method, str) or self.smooth:
            return self.draws
        return self.draws and not attribution.is_exhaustive(self.method, self.options, shape, variables)

    @property
    def explains_layer(self) -> bool:
        """Whether maps are those of a layer, rather than of an input."""
        return self.spec is not None and self.spec.layer and self.method != "guided_grad_cam"

    @property
    def embeds(self) -> bool:
        """Whether token ids are explained through their embedding."""
        return self.embedding is not None and (self.spec is None or "integers" not in self.spec.layouts)

    def identity(self, network: str | None) -> dict[str, object]:
        """The settings that tell explanations of ``network`` from those of another monitor, in the order of its key."""
        found: dict[str, object] = {"method": self.label, "options": self.options, "target": self.target}
        found |= {"seed": self.seed, "baseline": self.baseline, "network": network}
        found |= {"layer": self.layer, "embedding": self.embedding}
        # added later: states that were saved without it keep their key
        return found if self.output_key is None else {**found, "output_key": self.output_key}

    def making(self) -> dict[str, str]:
        """Further settings that determine what a map holds, each as text; names of variables do not count."""
        found: dict[str, object] = {"features": None if self.features is None else list(self.features.values())}
        found |= {"task": self.task, "outputs": self.outputs.space, "inputs": self.inputs}
        found |= {"layout": LAYOUTS[self.time_first], "autocast": self.autocast}
        found |= {"pad_token": self.pad_token, "special_tokens": self.special_tokens}
        return {name: stable(value) for name, value in found.items()}


def resolve_method(method: str | Custom, options: Mapping[str, Any], smooth: Smooth | None = None) -> str | Custom:
    """A name of METHODS, checked; or a callable, given itself or as its dotted path, for configuration files (trap 58).

    Raises:
        ValueError: on an unknown name or option, or a path that leads to nothing callable.
    """
    if callable(method):
        return method
    if not isinstance(method, str):
        raise TypeError(f"method must be a name or a callable; got {method!r}")
    module, dot, name = method.rpartition(".")
    if not dot:
        noisy = attribution.SMOOTH_OPTIONS if smooth else ()
        check_method(method, options, also=noisy)
        return method
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {method!r} is a dotted path that cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"method {method!r} must be the path of a callable; got a {type(found).__name__}")
    return cast(Custom, found)
