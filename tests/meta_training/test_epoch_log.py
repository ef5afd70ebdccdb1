"""The file of a meta-training's epochs, and its plot."""

import csv

import keras
import pytest

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.meta_training.epoch_log import EpochLog
from keras_l2l.reports import plot_meta_training


def _fit(path, epochs):
    task = tasks.Quadratic(2)
    trainer = MetaTrainer(rules.SGD(0.01), task, horizon=4, unroll=2)
    trainer.compile(keras.optimizers.Adam(1e-3))
    trainer.fit(
        epochs,
        2,
        task,
        validation_episodes=2,
        validation_freq=2,
        verbose=0,
        callbacks=[EpochLog(path / "log.csv")],
        backup_dir=path,
    )


def test_a_line_for_each_epoch_of_a_run_and_of_its_continuation(tmp_path):
    _fit(tmp_path, 2)
    _fit(tmp_path, 4)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["val_loss"]) for row in rows] == [False, True] * 2
    assert float(rows[1]["val_loss_standard_error"]) > 0.0
    assert float(rows[0]["learning_rate"]) == pytest.approx(1e-3)


def test_the_plot_has_error_bars_where_there_was_a_validation(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "epoch,loss,val_loss,val_loss_standard_error\n"
        "1,-1.0,,\n2,9.0,9.0,0.5\n2,-2.0,-1.5,0.25\n"
    )
    figure = plot_meta_training(log, tmp_path / "plot.png")
    (axis,) = figure.axes
    line, bars = axis.get_lines()[0], axis.containers[0]
    assert line.get_ydata().tolist() == [-1.0, -2.0]
    (segment,) = bars.lines[2][0].get_segments()
    assert segment.tolist() == [[2.0, -1.75], [2.0, -1.25]]
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_a_log_without_an_epoch_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,loss\n")
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_meta_training(tmp_path / "log.csv")


def test_baselines_of_the_validation_are_lines_beside_it(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "epoch,loss,val_loss,inner_steps_per_second,val_nominal,val_adam\n"
        "1,-1.0,-1.5,50,-1.25,inf\n"
    )
    losses, speed = plot_meta_training(log).axes
    lines = {line.get_label(): line for line in losses.get_lines()}
    assert lines["validation, rule as it began"].get_ydata()[0] == -1.25
    # What diverged has no place in the panel.
    assert "validation, tuned Adam" not in lines
    assert speed.get_lines()[0].get_ydata().tolist() == [50.0]


def test_a_file_of_an_earlier_version_keeps_its_columns(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,loss\n1,0.5\n")
    _fit(tmp_path, 2)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["epoch", "loss"]] * 3
