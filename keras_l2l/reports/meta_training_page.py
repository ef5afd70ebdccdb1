"""What a meta-training did and found: one page."""

import html
import os
from collections.abc import Mapping, Sequence
from typing import Any

from keras_l2l.evaluation.statistics import mean_and_error
from keras_l2l.reports.meta_training_log import BASELINES, read_epochs
from keras_l2l.reports.meta_training_plots import plot_meta_training
from keras_l2l.reports.page import page, picture, pixels, table
from keras_l2l.serialization.atomic_write import atomic_file

_EXPLANATION = (
    "The meta-loss is the mean loss of the models that the rule trains, "
    "weighted and transformed as the recipe says; that of the validation is of "
    "models that no training saw. Judge the rule by keras-l2l compare: fresh "
    "models, tuned rivals, held-out data."
)
_COLUMNS = ("Stage", "Epochs", "Best validation", *BASELINES.values())


def write_meta_training_report(
    path: str | os.PathLike[str],
    name: str,
    manifest: Mapping[str, Any],
    logs: Sequence[str | os.PathLike[str]],
    recipe: str,
) -> None:
    """Writes a page about a meta-training, which holds its figures.

    It has the curves of each stage, the validation beside its baselines, the
    scores, the recipe, the seed and the versions, and loads nothing.

    Args:
        path: String or path of the file, which ends in `.html`.
        name: String, what the rule is called.
        manifest: Dict, that of the exported rule, of
            `keras_l2l.serialization.read_manifest`.
        logs: Strings or paths of the files `meta-training-N.csv`, one for
            each stage.
        recipe: String, the recipe as TOML.
    """
    sections = [
        table("Validation losses", _COLUMNS, _validation_rows(logs)),
        *(
            f"<h2>Stage {number}</h2>"
            + picture(f"stage {number}", pixels(plot_meta_training(log)))
            for number, log in enumerate(logs, 1)
        ),
        "<h2>Scores</h2>",
        table(
            "Of the rule that was exported",
            ("Score", "Mean ± standard error", "Runs"),
            _score_rows(manifest["scores"]),
        ),
        "<h2>Recipe</h2>",
        f"<pre>{html.escape(recipe)}</pre>",
        "<h2>Versions and seed</h2>",
        table(
            "With which it can be repeated",
            ("", "Value"),
            [
                [key, str(value)]
                for key, value in {
                    **manifest["versions"],
                    "seed": manifest["seed"],
                }.items()
            ],
        ),
    ]
    title = f"Meta-training of {name}"
    note = f"{manifest['description']} {_EXPLANATION}"
    with atomic_file(path) as file:
        file.write(page(title, note, sections))


def _validation_rows(logs):
    """A row for each stage: its best validation, and the baselines."""
    for number, log in enumerate(logs, 1):
        rows = read_epochs(log)
        validated = [row for row in rows.values() if "val_loss" in row]
        if not validated:
            yield [str(number), str(len(rows)), *[""] * (1 + len(BASELINES))]
            continue
        best = min(validated, key=lambda row: row["val_loss"])
        error = best.get("val_loss_standard_error")
        yield [
            str(number),
            str(len(rows)),
            f"{best['val_loss']:.4g}"
            + ("" if error is None else f" ± {error:.2g}"),
            *(f"{best[key]:.4g}" if key in best else "" for key in BASELINES),
        ]


def _score_rows(scores):
    """A row for each score; of losses of several runs their mean."""
    for key, value in scores.items():
        if key == "test_loss":
            for step, losses in value.items():
                loss = mean_and_error(losses)
                yield [
                    f"held-out loss after {step} steps of {scores['task']}",
                    f"{loss.mean:.4g} ± {loss.standard_error:.2g}",
                    str(len(losses)),
                ]
        elif isinstance(value, (int, float)):
            yield [key.replace("_", " "), f"{value:.4g}", ""]
