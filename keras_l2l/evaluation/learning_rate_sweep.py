"""The search for the learning rate of a hand-designed optimizer."""

import dataclasses
import math
from collections.abc import Callable, Sequence

CRITERIA = {
    "training": (
        "the learning rate whose mean loss over the last tenth of the steps, "
        "averaged over the sweep seeds, is lowest; a run that diverged counts "
        "as infinity"
    ),
    "held-out": (
        "the learning rate whose loss on held-out data after the last step, "
        "averaged over the sweep seeds, is lowest; a run that diverged counts "
        "as infinity"
    ),
}
SELECTION = CRITERIA["training"]

_BORDER_FACTOR = 10.0**0.5  # half a decade
_MAX_EXTENSIONS = 8  # four decades


def rate_grid(
    lowest: float, highest: float, steps_of_a_decade: Sequence[float] = (1, 3)
) -> tuple[float, ...]:
    """Lists round learning rates, about equally far apart on a log scale.

    Args:
        lowest: Float, a power of ten.
        highest: Float.
        steps_of_a_decade: Sequence of floats in [1, 10), ascending.
            Defaults to `(1, 3)`, half a decade apart.

    Returns:
        Tuple of floats, ascending.

    Example:

    >>> rate_grid(0.01, 1.0)
    (0.01, 0.03, 0.1, 0.3, 1.0)
    """
    rates = []
    exponent = round(math.log10(lowest))
    while float(f"1e{exponent}") <= highest:
        rates += [float(f"{step:g}e{exponent}") for step in steps_of_a_decade]
        exponent += 1
    return tuple(rate for rate in rates if rate <= highest)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """How the learning rate of an optimizer was chosen.

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


def sweep(
    optimizer: str,
    learning_rates: Sequence[float],
    score: Callable[[float], float],
) -> Sweep:
    """Finds the learning rate of the lowest score.

    As long as the best lies on the border of the grid, the grid is extended
    beyond it by half a decade, up to four decades in all.

    Args:
        optimizer: String, the name of the optimizer.
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
