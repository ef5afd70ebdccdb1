"""The figures of a benchmark: each optimizer against a reference."""

import dataclasses
import math

import numpy as np

# What all are compared with: Adam, tuned for each task.
REFERENCE = "Adam"


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer on one task, as tables show it.

    Attributes:
        task: String.
        optimizer: String.
        learning_rate: Float or `None`.
        on_border: Boolean, see `Result`.
        final_loss: Float, mean over seeds of `Result.final_losses`.
        final_error: Float, its standard error; NaN with one seed.
        mean_loss: Float, mean over seeds of `Result.mean_losses`.
        test_loss: Float, mean over seeds.
        ratio: Float, the final loss over that of the reference; `None` if
            the reference is not among the results.
        steps_to_reference: Integer, steps until the training loss is that
            with which the reference ends; `None` if it never is.
    """

    task: str
    optimizer: str
    learning_rate: float | None
    on_border: bool
    final_loss: float
    final_error: float
    mean_loss: float
    test_loss: float
    ratio: float | None
    steps_to_reference: int | None


def summarize(results, reference=REFERENCE):
    """The figures of all results, against one of the optimizers.

    Args:
        results: List of `Result`.
        reference: String, the name of an optimizer.
            Defaults to `"Adam"`, tuned.

    Returns:
        List of `Row`, in the order of the results.
    """
    references = {
        result.task: float(result.final_losses.mean())
        for result in results
        if result.optimizer == reference
    }
    rows = []
    for result in results:
        final = result.final_losses
        goal = references.get(result.task)
        error = math.nan
        if len(final) > 1 and np.isfinite(final).all():
            error = float(final.std(ddof=1) / math.sqrt(len(final)))
        rows.append(
            Row(
                task=result.task,
                optimizer=result.optimizer,
                learning_rate=result.learning_rate,
                on_border=result.on_border,
                final_loss=float(final.mean()),
                final_error=error,
                mean_loss=float(result.mean_losses.mean()),
                test_loss=float(result.test_losses.mean()),
                ratio=None if goal is None else float(final.mean()) / goal,
                steps_to_reference=(
                    None if goal is None else result.steps_to(goal)
                ),
            )
        )
    return rows


def geometric_means(rows):
    """The geometric mean over the tasks of each optimizer's ratios.

    Args:
        rows: List of `Row`.

    Returns:
        Dict from optimizers to floats; infinity if one diverged. Empty if
        there are no ratios.
    """
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row.ratio is not None:
            ratios.setdefault(row.optimizer, []).append(row.ratio)
    return {name: geometric_mean(values) for name, values in ratios.items()}


def geometric_mean(ratios):
    """The geometric mean; infinity if one of them is.

    Args:
        ratios: Sequence of floats.

    Returns:
        A float.
    """
    return float(np.exp(np.mean(np.log(ratios))))
