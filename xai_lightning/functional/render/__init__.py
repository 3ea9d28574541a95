"""Pictures, ``uint8[H, W, 3]``, so that TensorBoard neither rescales nor clips them (trap 64).

Each has a ``Figure`` of its own, never ``pyplot`` (trap 65), and Matplotlib's default style, whatever the user has set.
Non-finite values are marked as such and cause no errors (trap 32).
"""

from xai_lightning.functional.render.averages import average_map
from xai_lightning.functional.render.bars import MOST_BARS, bar_chart
from xai_lightning.functional.render.canvas import NEUTRAL, UNDEFINED, Picture
from xai_lightning.functional.render.films import filmstrip
from xai_lightning.functional.render.grids import MOST_ROWS, NO_SCALE, attribution_grid, colour_scale
from xai_lightning.functional.render.groups import GroupRate, counted_rate, group_rates
from xai_lightning.functional.render.histories import LimitHistory
from xai_lightning.functional.render.layers import layer_heatmap, layer_similarity
from xai_lightning.functional.render.reliability import calibration
from xai_lightning.functional.render.ridges import histogram_ridges
from xai_lightning.functional.render.series import series_bands
from xai_lightning.functional.render.similarities import similarity
from xai_lightning.functional.render.texts import token_lines
from xai_lightning.functional.render.timeline import gate_timeline
from xai_lightning.functional.render.units import unit_samples

__all__ = [
    "MOST_BARS",
    "MOST_ROWS",
    "NEUTRAL",
    "NO_SCALE",
    "UNDEFINED",
    "GroupRate",
    "LimitHistory",
    "Picture",
    "attribution_grid",
    "average_map",
    "bar_chart",
    "calibration",
    "colour_scale",
    "counted_rate",
    "filmstrip",
    "gate_timeline",
    "group_rates",
    "histogram_ridges",
    "layer_heatmap",
    "layer_similarity",
    "series_bands",
    "similarity",
    "token_lines",
    "unit_samples",
]
