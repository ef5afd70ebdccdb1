"""What is installed with an extra alone, is asked for by its name."""

import sys

import pytest

from keras_l2l import reports
from keras_l2l.cli import main
from keras_l2l.tasks import datasets


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_figures_need_matplotlib(without_matplotlib):
    for name in ("plot_task", "write_report", "plot_training"):
        with pytest.raises(ImportError, match=r"keras-l2l\[plots\]"):
            getattr(reports, name)
    for name in ("preset_table", "TrainingMonitor", "MetaTrainingMonitor"):
        assert getattr(reports, name).__name__ == name


def test_a_plot_that_cannot_be_drawn_is_refused_before_the_training(
    without_matplotlib, tmp_path
):
    reports.TrainingMonitor()
    with pytest.raises(ImportError, match=r"keras-l2l\[plots\]"):
        reports.TrainingMonitor(path=tmp_path / "rule.png")


@pytest.mark.parametrize("command", ["compare", "benchmark"])
def test_a_comparison_says_so_before_it_runs(
    without_matplotlib, tmp_path, capsys, command
):
    output = tmp_path / "out"
    assert main([command, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert 'pip install "keras-l2l[plots]"' in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_the_data_of_scikit_learn_need_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    datasets.digits.cache_clear()
    with pytest.raises(ImportError, match=r"keras-l2l\[sklearn\]"):
        datasets.digits()
    assert main(["compare", "--output", str(tmp_path)]) == 2
    assert 'pip install "keras-l2l[sklearn]"' in capsys.readouterr().err


def test_what_is_no_name():
    with pytest.raises(AttributeError, match="has no attribute 'plot'"):
        reports.plot  # noqa: B018
    assert set(reports.__all__) <= set(dir(reports))
