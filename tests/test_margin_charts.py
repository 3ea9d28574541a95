"""TensorBoard's margin charts, asked of TensorBoard's own plugin, as its page does."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import Parse
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG, PLUGIN_NAME

from xai_lightning.sinks import TensorBoardSink, logger_sinks

with warnings.catch_warnings():
    # what TensorBoard vendors warns of itself when it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
    from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

GAP = tuple(f"fairness/sex/gap/{x}" for x in ("value", "lower", "upper"))
ODD = tuple(f"fairness/a.b (c+d) [e]|f?*^$/{{g}}\\h/{x}" for x in ("value", "lower", "upper"))


def logger(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(str(folder), name="", version="run")


def sink(folder: Path) -> TensorBoardSink:
    (found,) = logger_sinks([logger(folder)])
    assert isinstance(found, TensorBoardSink)
    return found


def plugin(folder: Path) -> CustomScalarsPlugin:
    multiplexer = EventMultiplexer(tensor_size_guidance={PLUGIN_NAME: 0, "scalars": 0})
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = TBContext(
        logdir=str(folder),
        data_provider=MultiplexerDataProvider(multiplexer, str(folder)),
        plugin_name_to_instance={},
    )
    context.plugin_name_to_instance["scalars"] = ScalarsPlugin(context)
    return CustomScalarsPlugin(context)


def layout(folder: Path) -> Any:
    return plugin(folder).layout_impl(RequestContext(), "")


def charts(folder: Path) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """Category and title of each chart, with its series."""
    proto = layout(folder)
    if not proto:
        return {}
    return {
        (category.title, chart.title): [(s.value, s.lower, s.upper) for s in chart.margin.series]
        for category in Parse(proto, Layout()).category
        for chart in category.chart
    }


def written(folder: Path) -> int:
    """How many layouts the event files hold."""
    multiplexer = EventMultiplexer(tensor_size_guidance={PLUGIN_NAME: 0})
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return len(multiplexer.Tensors("run", CONFIG_SUMMARY_TAG))


def asked_by_the_page(names: tuple[str, ...]) -> str:
    """What the page sends: each name with the letters that are special in regular expressions escaped, joined."""
    return "|".join("(" + re.sub(r"[.*+?^${}()|[\]\\]", r"\\\g<0>", name) + ")" for name in names)


def test_a_margin_chart_names_value_lower_and_upper_in_this_order(tmp_path: Path) -> None:
    found = sink(tmp_path)
    found.margin_charts({"sex": {"gap": GAP}})
    found.flush()
    assert charts(tmp_path) == {("sex", "gap"): [GAP]}


@pytest.mark.parametrize("names", [GAP, ODD], ids=["plain", "odd"])
def test_the_page_finds_the_scalars_of_a_chart(tmp_path: Path, names: tuple[str, str, str]) -> None:
    found = sink(tmp_path)
    found.margin_charts({"sex": {"gap": names}})
    for step in (10, 20):
        found.scalars({name: step / 10 + i for i, name in enumerate(names)}, step=step)
    found.scalars({"fairness/other/value": 0.0}, step=20)
    found.flush()
    ((series,),) = charts(tmp_path).values()
    answer = plugin(tmp_path).scalars_impl(RequestContext(), "run", asked_by_the_page(series), "")
    assert answer["regex_valid"]
    events = {name: [(step, value) for _, step, value in rows] for name, rows in answer["tag_to_events"].items()}
    assert events == {name: [(10, 1.0 + i), (20, 2.0 + i)] for i, name in enumerate(series)}


def test_a_layout_is_written_once(tmp_path: Path) -> None:
    """Trap 67."""
    found = sink(tmp_path)
    for _ in range(5):
        found.margin_charts({"sex": {"gap": GAP}})
    found.flush()
    assert written(tmp_path) == 1


def test_two_sinks_of_a_run_share_one_layout(tmp_path: Path) -> None:
    """Trap 67: TensorBoard reads the last layout only."""
    shared = logger(tmp_path)
    (first,), (second,) = logger_sinks([shared]), logger_sinks([shared])
    first.margin_charts({"sex": {"gap": GAP}})
    second.margin_charts({"race": {"gap": ODD}, "sex": {"ratio": ODD}})
    first.margin_charts({"sex": {"gap": GAP}})
    first.flush()
    assert charts(tmp_path) == {("sex", "gap"): [GAP], ("sex", "ratio"): [ODD], ("race", "gap"): [ODD]}
    assert written(tmp_path) == 2
    assert len(list((tmp_path / "run").glob("events*"))) == 1


def test_nothing_is_written_for_no_charts(tmp_path: Path) -> None:
    found = sink(tmp_path)
    found.margin_charts({})
    found.scalars({"a": 1.0}, step=1)
    found.flush()
    assert charts(tmp_path) == {}


def test_a_chart_without_three_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'gap' must have three names .* got \('a', 'b'\)"):
        sink(tmp_path).margin_charts({"sex": {"gap": ("a", "b")}})


def test_other_loggers_have_no_margin_charts(tmp_path: Path) -> None:
    (plain,) = logger_sinks([CSVLogger(str(tmp_path))])
    assert not hasattr(plain, "margin_charts")
