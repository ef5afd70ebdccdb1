"""The report of a benchmark: tables, figures, one page."""

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
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 2
    # Nothing is loaded from elsewhere.
    assert "http" not in page
    assert 'src="data:image/png;base64,' in page


def test_without_tuned_adam_there_are_no_ratios(tmp_path):
    made = comparison({name: [[2.0] * 11] * 2 for name in ("mine", "SGD")})
    reports.write_report([made], tmp_path)
    page = re.sub('base64,[^"]*', "", (tmp_path / "report.html").read_text())
    table, note = reports.benchmark_tables([made])
    assert [c.header for c in table.columns][-1] == "Test"
    for text in (page, note.plain):
        assert "no ratios, as tuned Adam" in text
        assert "nan" not in text


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
