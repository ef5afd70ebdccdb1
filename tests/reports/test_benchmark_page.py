"""The report of a benchmark: tables, figures, one page."""

import dataclasses
import json
import re

import numpy as np
import pytest

from keras_l2l import reports
from keras_l2l.evaluation import BENCHMARK_OPTIMIZERS
from keras_l2l.reports.axes import styles_of
from tests.reports.test_plots import comparison


def test_the_report_is_one_page(tmp_path):
    made = comparison({"mine": [[2.0, 1.0]] * 2, "Adam": [[2.0, 1.5]] * 2})
    files = reports.write_report([made], tmp_path)
    assert set(files) == {
        *("benchmark.json", "report.html", "profile.png", "toy.png")
    }
    document = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["optimizer"] for row in document["rows"]] == ["mine", "Adam"]
    assert document["geometric_means"]["mine"] == pytest.approx(2 / 3)
    assert document["held_out_geometric_means"]["Adam"] == 1.0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 2
    # Nothing is loaded from elsewhere.
    assert "http" not in page
    assert 'src="data:image/png;base64,' in page


def test_without_the_reference_there_are_no_ratios(tmp_path):
    made = comparison({name: [[2.0] * 11] * 2 for name in ("mine", "SGD")})
    reports.write_report([made], tmp_path)
    page = re.sub('base64,[^"]*', "", (tmp_path / "report.html").read_text())
    *tables, note = reports.benchmark_tables([made])
    for table in tables:
        assert "Ratio" not in [column.header for column in table.columns]
    for text in (page, note.plain):
        assert "no ratios, as tuned Adam" in text
        assert "nan" not in text
    *_, note = reports.benchmark_tables([made], reference="SGD")
    assert "Ratio: over SGD" in note.plain


def _columns(tables, title):
    """Dict from the names of columns to their cells."""
    (table,) = (table for table in tables[:-1] if table.title == title)
    return {
        column.header: [str(cell) for cell in column.cells if str(cell)]
        for column in table.columns
    }


def test_held_out_figures_are_those_of_the_end_and_the_best_step():
    losses = {"mine": [[4.0, 2.0, 1.0, 3.0]], "Adam": [[4.0, 3.0, 2.0, 2.0]]}
    made = comparison(losses, test_steps=(1, 2, 3))
    made = dataclasses.replace(
        made,
        records=tuple(
            dataclasses.replace(
                record,
                test_accuracies={1: 0.5, 2: 0.75, 3: 0.25},
                seconds=6.0,
                cpu_seconds=3.0,
            )
            for record in made.records
        ),
    )
    tables = reports.benchmark_tables([made])
    held_out = _columns(tables, "Held-out data")
    assert held_out["Optimizer"] == ["toy", "mine", "Adam"]
    assert held_out["Test"] == ["3", "2"]
    assert held_out["Ratio"] == ["1.5", "1"]
    assert held_out["Best"] == ["1", "2"]
    assert held_out["Accuracy"] == ["0.2500", "0.2500"]
    assert held_out["Accuracy, best"] == ["0.7500", "0.7500"]
    training = _columns(tables, "Training loss")
    # The second of three steps is the first with Adam's final loss.
    assert training["Reached"] == ["2", "3"]
    assert training["Wall s"] == ["4", "6"]
    assert training["CPU s"] == ["2", "3"]
    means = _columns(tables, "Geometric means over the tasks of the ratios")
    assert means["Held-out"] == ["1.5", "1"]


def test_curves_show_the_spread_of_the_seeds_until_one_is_lost():
    low, high = np.geomspace(8.0, 0.5, 41), np.geomspace(8.0, 2.0, 41)
    lost = np.where(np.arange(41) < 30, low, np.inf)
    figure = reports.plot_task(
        comparison({"mine": [low, high], "lost": [low, lost]}, rate=None)
    )
    (axes,) = figure.axes
    mine, other = axes.get_lines()
    np.testing.assert_allclose(mine.get_ydata(), (low + high) / 2)
    assert len(other.get_xdata()) == 30
    assert axes.get_yscale() == "log"
    (band, _) = axes.collections
    edge = band.get_paths()[0].vertices
    at_end = edge[edge[:, 0] == 40, 1]
    assert (at_end.min(), at_end.max()) == pytest.approx((0.5, 2.0))
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["mine", "lost, 1 of 2 diverged"]


def test_no_two_optimizers_are_drawn_alike():
    names = ["mine", "mine, total steps", *BENCHMARK_OPTIMIZERS]
    assert len(set(map(str, styles_of(names, "mine")))) == len(names)
