"""A rule against tuned baselines."""

from keras_l2l import checks

checks.needs_tensorflow("`keras_l2l.evaluation` needs")

from keras_l2l.evaluation.benchmark import (
    SUITES,
    Row,
    geometric_means,
    run_benchmark,
    summarize,
)
from keras_l2l.evaluation.comparison import compare
from keras_l2l.evaluation.cost import Cost, measure_cost, state_per_coordinate
from keras_l2l.evaluation.episode_runner import (
    LearningCurves,
    learning_curves,
    recorded_steps,
)
from keras_l2l.evaluation.learning_rate_sweep import SELECTION, Sweep
from keras_l2l.evaluation.optimizer_spec import (
    BASELINES,
    BENCHMARK_OPTIMIZERS,
    OPTIMIZERS,
    OptimizerSpec,
    benchmark_specs,
    learned_spec,
    nominal_spec,
)
from keras_l2l.evaluation.proposed_updates import (
    Proposals,
    UpdateHistory,
    proposed_updates,
    update_history,
)
from keras_l2l.evaluation.results import Comparison, Record, Summary, to_json
from keras_l2l.evaluation.statistics import Difference, MeanAndError

__all__ = [
    "BASELINES",
    "BENCHMARK_OPTIMIZERS",
    "OPTIMIZERS",
    "SELECTION",
    "SUITES",
    "Comparison",
    "Cost",
    "Difference",
    "LearningCurves",
    "MeanAndError",
    "OptimizerSpec",
    "Proposals",
    "Record",
    "Row",
    "Summary",
    "Sweep",
    "UpdateHistory",
    "benchmark_specs",
    "compare",
    "geometric_means",
    "learned_spec",
    "learning_curves",
    "measure_cost",
    "nominal_spec",
    "proposed_updates",
    "recorded_steps",
    "run_benchmark",
    "state_per_coordinate",
    "summarize",
    "to_json",
    "update_history",
]
