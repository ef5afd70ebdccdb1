"""The curves of a meta-training for TensorBoard."""

import sys

import pytest

from keras_l2l.reports import MetaTrainingMonitor


def _scalars(directory):
    """Dict from tags to lists of `(step, value)`."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    events = event_accumulator.EventAccumulator(str(directory))
    events.Reload()
    return {
        tag: [
            (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
            for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }


def test_a_curve_for_each_baseline_in_one_chart(tmp_path):
    pytest.importorskip("tensorboard")
    monitor = MetaTrainingMonitor(tmp_path)
    logs = {"loss": 2.0, "inner_steps_per_second": 50.0, "diverged": 0}
    monitor.on_epoch_end(0, logs)
    validated = {"val_loss": 1.0, "val_nominal": 3.0}
    monitor.on_epoch_end(1, {**logs, **validated})
    assert {path.name for path in tmp_path.iterdir()} == {
        *("training tasks", "validation", "rule as it began")
    }
    training = _scalars(tmp_path / "training tasks")
    assert training["meta_loss"] == [(1, 2.0), (2, 2.0)]
    assert training["inner_steps_per_second"] == [(1, 50.0), (2, 50.0)]
    nominal = _scalars(tmp_path / "rule as it began")
    assert nominal == {"meta_loss": [(2, 3.0)]}


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"keras-l2l\[tensorboard\]"):
        MetaTrainingMonitor(tmp_path)
