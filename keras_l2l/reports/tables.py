"""Results as tables for the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from keras_l2l.evaluation.results import Comparison
from keras_l2l.evaluation.statistics import mean_and_error
from keras_l2l.presets import Preset

_TEST_COLUMNS = 3  # more would not fit beside each other
_SHOWN_VALUES = 4  # of a list; what is longer is summed up
_LEAST_ERROR, _LARGEST_ERROR = 1e-6, 1e4  # else digits without end
_EXPLANATION = (
    "Final loss and test loss: mean ± standard error over {runs} runs with "
    "the same initialisations and batches. Gap: the optimizer's loss minus "
    "that of {learned}, after step {step}, in standard errors of the paired "
    "difference; positive where {learned} is better."
)


def comparison_table(comparison: Comparison) -> list[Any]:
    """The optimizers of a comparison, one a row.

    Args:
        comparison: A `keras_l2l.evaluation.Comparison`.

    Returns:
        List of what `rich` can print.
    """
    summaries = comparison.summaries()
    steps = list(summaries[0].test_losses)[-_TEST_COLUMNS:]
    table = Table(
        title=f"{comparison.task}, {comparison.steps} steps",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("Optimizer", no_wrap=True)
    table.add_column("Rate", justify="right", no_wrap=True)
    for name in (
        "Final loss",
        "Mean loss",
        *(f"Test loss\n@{step}" for step in steps),
        "Gap,\nfinal",
        "Gap,\ntest",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(
            Text(summary.optimizer),
            _rate(summary),
            _loss(summary, summary.final_loss),
            _loss(summary, summary.mean_loss, with_error=False),
            *(_loss(summary, summary.test_losses[step]) for step in steps),
            _gap(summary.final_loss_difference),
            _gap(summary.test_loss_differences.get(steps[-1])),
            style="bold" if summary.optimizer == comparison.learned else None,
        )
    note = _EXPLANATION.format(
        runs=summaries[0].runs, step=steps[-1], learned=comparison.learned
    )
    warnings = [
        Text(f"Warning: {warning}", style="yellow")
        for warning in _warnings(comparison, summaries)
    ]
    return [table, Text(note, style="dim"), *warnings]


def preset_table(
    presets: Sequence[Preset], state_bytes: Mapping[str, float]
) -> list[Any]:
    """The presets, one a row.

    Args:
        presets: List of `keras_l2l.presets.Preset`.
        state_bytes: Dict from their names to the bytes of hidden state for
            each parameter of the model.

    Returns:
        List of what `rich` can print.
    """
    if not presets:
        return [Text("No presets are installed.")]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("Preset", no_wrap=True)
    table.add_column("What it is")
    table.add_column("Meta-\nparameters", justify="right")
    table.add_column("Bytes a\nparameter", justify="right")
    table.add_column("Loss to\nAdam's", justify="right")
    table.add_column("on")
    for preset in presets:
        figure = preset.against_adam
        table.add_row(
            Text(preset.name),
            Text(preset.description),
            f"{preset.parameters:,}",
            f"{state_bytes[preset.name]:,.0f}",
            f"{figure['ratio']:.2f}" if figure else "-",
            Text(
                f"{figure['task']}, {figure['steps']} steps" if figure else ""
            ),
        )
    note = (
        "Bytes: hidden state for each parameter of the model (Adam: 8). Loss "
        "to Adam's: on held-out data, as a multiple of that of an Adam whose "
        "learning rate was tuned for these steps, by "
        "benchmarks/presets.py. `keras-l2l inspect NAME` has all scores, and "
        "the time of an update."
    )
    return [table, Text(note, style="dim")]


def detail_table(details: dict[str, Any]) -> list[Any]:
    """Names and values, one pair a row; dicts and lists are unfolded.

    Args:
        details: Dict.

    Returns:
        List of what `rich` can print.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in details.items():
        table.add_row(Text(name), Text(_lines(value)))
    return [table]


def _warnings(comparison, summaries):
    """What makes a baseline worse than it could be."""
    for sweep in comparison.sweeps:
        if sweep.on_border:
            yield (
                f"the best learning rate of {sweep.optimizer}, "
                f"{sweep.best:.3g}, is the last that was tried; a better one "
                "may lie beyond."
            )
    for summary in summaries:
        if summary.diverged and summary.optimizer != comparison.learned:
            yield (
                f"{summary.optimizer} diverged in {summary.diverged} of "
                f"{summary.runs} runs. More sweep seeds may find a learning "
                "rate that is safe."
            )


def _rate(summary):
    rate = summary.learning_rate
    return "-" if rate is None else f"{rate:.3g}"


def _loss(summary, loss, with_error=True):
    if not math.isfinite(loss.mean):
        return Text(f"diverged {summary.diverged}/{summary.runs}", style="red")
    error = loss.standard_error
    if not with_error or not _LEAST_ERROR < error < _LARGEST_ERROR:
        return Text(f"{loss.mean:.4g}")
    # Two digits of the error, and the mean to the same place.
    digits = max(0, 1 - math.floor(math.log10(error)))
    return Text(f"{loss.mean:.{digits}f} ± {error:.{digits}f}")


def _gap(difference):
    if difference is None or math.isnan(difference.in_paired_standard_errors):
        return "-"
    return f"{difference.in_paired_standard_errors:+.1f}"


def _lines(value):
    """One line for each number of a structure, under the names to it."""
    if isinstance(value, dict) and "class_name" not in value:
        return "\n".join(_named_lines(value)) or "none"
    return _short(value)


def _named_lines(value, prefix=""):
    for key, item in value.items():
        if isinstance(item, dict) and item and "class_name" not in item:
            yield from _named_lines(item, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}: {_short(item)}"


def _short(value):
    if isinstance(value, dict) and "class_name" in value:
        return value["class_name"]
    if isinstance(value, list) and len(value) > _SHOWN_VALUES:
        if not all(isinstance(item, float) for item in value):
            return f"{len(value)} values"
        mean = mean_and_error(value)
        return (
            f"{mean.mean:.4g} ± {mean.standard_error:.2g} ({len(value)} values)"
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)
