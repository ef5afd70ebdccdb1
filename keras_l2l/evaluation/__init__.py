"""A rule against tuned baselines."""

from keras_l2l.evaluation.comparison import (
    BASELINES,
    Baseline,
    compare,
    learning_curves,
    recorded_steps,
)
from keras_l2l.evaluation.cost import measure_cost
from keras_l2l.evaluation.learning_rate_sweep import SELECTION
from keras_l2l.evaluation.proposed_updates import (
    proposed_updates,
    update_history,
)
from keras_l2l.evaluation.results import Comparison

__all__ = [
    "BASELINES",
    "SELECTION",
    "Baseline",
    "Comparison",
    "compare",
    "learning_curves",
    "measure_cost",
    "proposed_updates",
    "recorded_steps",
    "update_history",
]
