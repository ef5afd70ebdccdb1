"""The search for the learning rate of a baseline."""

import dataclasses
import math

import numpy as np

SELECTION = (
    "the learning rate whose mean loss over the last tenth of the steps, "
    "averaged over the sweep seeds, is lowest; a run that diverged counts as "
    "infinity"
)

DIVERGENCE_LIMIT = 1e3  # as in `MetaTrainer`

_BORDER_FACTOR = 10.0**0.5  # half a decade
_MAX_EXTENSIONS = 8  # four decades


@dataclasses.dataclass(frozen=True)
class Sweep:
    """How the learning rate of a baseline was chosen.

    Attributes:
        optimizer: String.
        learning_rates: Tuple of floats, ascending.
        scores: Tuple of floats, one for each; infinity where a run diverged.
        best: Float, the learning rate of the lowest score.
        on_border: Boolean. Whether the best is the lowest or the highest that
            was tried, so that a better one may lie beyond.
    """

    optimizer: str
    learning_rates: tuple[float, ...]
    scores: tuple[float, ...]
    best: float
    on_border: bool


def sweep(optimizer, learning_rates, score):
    """Finds the learning rate of the lowest score.

    As long as the best lies on the border of the grid, the grid is extended
    beyond it by half a decade, up to four decades in all.

    Args:
        optimizer: String, the name of the baseline.
        learning_rates: Sequence of floats, the grid to begin with.
        score: Function from a learning rate to a float.

    Returns:
        A `Sweep`.

    Example:

    >>> sweep("toy", [0.1, 1.0, 10.0], lambda rate: (rate - 1.0) ** 2).best
    1.0
    """
    scores = {rate: score(rate) for rate in sorted(learning_rates)}
    for _ in range(_MAX_EXTENSIONS):
        beyond = _beyond_border(scores)
        if beyond is None:
            break
        scores[beyond] = score(beyond)
    rates = tuple(sorted(scores))
    return Sweep(
        optimizer=optimizer,
        learning_rates=rates,
        scores=tuple(scores[rate] for rate in rates),
        best=min(rates, key=scores.__getitem__),
        on_border=_beyond_border(scores) is not None,
    )


def has_exploded(losses, first_loss):
    """Which losses are not finite, or far beyond the first of their run.

    Args:
        losses: Array of floats.
        first_loss: Array of floats, which broadcasts to it.

    Returns:
        Array of booleans.
    """
    limit = DIVERGENCE_LIMIT * (1.0 + np.abs(first_loss))
    # What is not a number is not below the limit either.
    return ~(np.abs(losses) <= limit)


def diverged(losses):
    """Whether a run diverged: a loss is not finite, or the last has exploded.

    Args:
        losses: Array `[steps + 1]`.

    Returns:
        A boolean.
    """
    finite = np.isfinite(losses).all()
    return bool(not finite or has_exploded(losses[-1], losses[0]))


def final_score(losses):
    """What `SELECTION` says, of one run.

    A mean over the last tenth of the steps, as one batch alone is noisy.

    Args:
        losses: Array `[steps + 1]`.

    Returns:
        A float.
    """
    if diverged(losses):
        return math.inf
    return float(np.mean(losses[-max(1, (len(losses) - 1) // 10) :]))


def _beyond_border(scores):
    """The next rate to try, if the best is on the border, else `None`."""
    rates = sorted(scores)
    # The lowest of equals, so that with nothing but infinity it goes down.
    best = min(rates, key=scores.__getitem__)
    if best == rates[0]:
        return best / _BORDER_FACTOR
    if best == rates[-1]:
        return best * _BORDER_FACTOR
    return None
