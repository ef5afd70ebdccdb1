"""Statistics over training runs: means with errors, differences, divergence."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

DIVERGENCE_LIMIT = 1e3  # as in `MetaTrainer`
_SMALLEST_LOSS = 1e-7  # about the resolution of float32


@dataclasses.dataclass(frozen=True)
class MeanAndError:
    """A mean over runs; NaN if a run diverged.

    Attributes:
        mean: Float.
        standard_error: Float, of the mean; NaN with a single run.
    """

    mean: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an optimizer is above the learned rule; NaN if one diverged.

    Attributes:
        mean: Float, loss of the optimizer minus that of the learned rule:
            positive where the learned rule is better.
        paired_standard_error: Float, of the differences run by run: what the
            runs of one seed have in common cancels.
        in_paired_standard_errors: Float, the mean in units of it.
        unpaired_standard_error: Float, as if the runs had nothing in common.
        in_unpaired_standard_errors: Float, the mean in units of it.
    """

    mean: float
    paired_standard_error: float
    in_paired_standard_errors: float
    unpaired_standard_error: float
    in_unpaired_standard_errors: float


def mean_and_error(values: Sequence[float]) -> MeanAndError:
    """Computes the mean over runs and its error; NaN if one is not finite."""
    array = np.asarray(values, "float64")
    if not np.isfinite(array).all():
        return MeanAndError(math.nan, math.nan)
    return MeanAndError(float(array.mean()), float(standard_error(array)))


def standard_error(values: Any) -> Any:
    """Computes the standard error of the mean of `[S, ...]` over S runs.

    NaN with a single run.
    """
    values = np.asarray(values, "float64")
    if len(values) < 2:
        return np.full(values.shape[1:], math.nan)
    return values.std(0, ddof=1) / math.sqrt(len(values))


def paired_difference(
    values: Sequence[float], reference: Sequence[float]
) -> Difference:
    """Computes the difference between two optimizers over the same seeds.

    One value a run, in the same order of seeds.
    """
    if not np.isfinite([*values, *reference]).all():
        return Difference(*[math.nan] * 5)
    pairs = np.subtract(values, reference)
    mean, paired = float(pairs.mean()), float(standard_error(pairs))
    unpaired = math.hypot(standard_error(values), standard_error(reference))
    return Difference(
        mean, paired, _ratio(mean, paired), unpaired, _ratio(mean, unpaired)
    )


def geometric_mean(ratios: Sequence[float]) -> float:
    """Computes the geometric mean; infinity if a ratio is."""
    return float(np.exp(np.mean(np.log(ratios))))


def loss_ratio(loss: float, reference: float) -> float:
    """Computes the ratio of two losses, at least 1e-7 each.

    A cross-entropy in float32 can be zero.
    """
    return max(loss, _SMALLEST_LOSS) / max(reference, _SMALLEST_LOSS)


def has_exploded(losses: Any, first_loss: Any) -> Any:
    """Tells which losses are not finite, or far beyond the first of their run.

    Arrays of floats, of which the second broadcasts to the first.
    """
    limit = DIVERGENCE_LIMIT * (1.0 + np.abs(first_loss))
    # What is not a number is not below the limit either.
    return ~(np.abs(losses) <= limit)


def diverged(losses: Any) -> bool:
    """Tells whether a loss `[T]` is not finite, or the last has exploded."""
    finite = np.isfinite(losses).all()
    return bool(not finite or has_exploded(losses[-1], losses[0]))


def final_score(losses: Any) -> float:
    """Computes the mean loss `[T]` over the last tenth of the steps.

    One batch alone is noisy. Infinity for a run that diverged.
    """
    if diverged(losses):
        return math.inf
    return float(np.mean(losses[-max(1, (len(losses) - 1) // 10) :]))


def _ratio(mean, error):
    if error == 0.0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / error
