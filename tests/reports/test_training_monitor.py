import keras
import numpy as np
import pytest

from keras_l2l import L2LOptimizer, rules
from keras_l2l.reports import TrainingMonitor, plot_training


def fit(optimizer, monitor, y=1.0, epochs=2):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, loss="mse")
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    model.fit(
        *(x, np.full((20, 2), y, "float32")),
        batch_size=4,
        epochs=epochs,
        callbacks=[monitor],
        verbose=0,
    )
    return model


def test_step_sizes_of_any_optimizer():
    monitor = TrainingMonitor(every=3)
    fit(keras.optimizers.Adam(0.01), monitor)
    assert monitor.steps == [1, 4, 7, 10]
    kernel, bias = monitor.tensors.values()
    assert set(kernel) == {"step_size"}
    # The first step of Adam is its learning rate, along the sign.
    np.testing.assert_allclose(kernel["step_size"][0], 0.01, rtol=1e-3)
    np.testing.assert_allclose(bias["step_size"][0], 0.01, rtol=1e-3)
    assert monitor.interventions == {}


def test_what_the_default_rule_does(tmp_path):
    monitor = TrainingMonitor(every=1, path=tmp_path / "rule.png")
    fit(L2LOptimizer(rules.Hierarchical()), monitor)
    kernel, bias = monitor.tensors.values()
    assert set(kernel) == {"step_size", "signal", "orthogonalized"}
    assert set(bias) == {"step_size", "signal"}
    # At the first step all of a gradient is signal, later part of it.
    np.testing.assert_allclose(kernel["signal"][0], 1.0, atol=1e-3)
    assert kernel["signal"][-1] < 0.98
    # A rule that is not trained has one gate for all.
    gate = 1.0 / (1.0 + np.exp(-3.0))
    np.testing.assert_allclose(kernel["orthogonalized"], gate, rtol=1e-5)
    assert monitor.interventions == {"skipped": [0] * 10, "rewound": [0] * 10}
    assert (tmp_path / "rule.png").read_bytes().startswith(b"\x89PNG")
    panels = plot_training(monitor).axes
    assert [len(panel.get_lines()) for panel in panels] == [2, 2, 1, 2]


def test_interventions_of_the_guard():
    monitor = TrainingMonitor(every=1)
    with pytest.warns(UserWarning, match="skipped|left out"):
        fit(L2LOptimizer(rules.SGD(0.01)), monitor, y=np.nan, epochs=1)
    assert monitor.interventions["skipped"] == [1, 2, 3, 4, 5]
    kernel, _ = monitor.tensors.values()
    assert kernel["step_size"] == [0.0] * 5


def test_a_loss_scale(tmp_path):
    monitor = TrainingMonitor(every=5)
    fit(keras.optimizers.LossScaleOptimizer(L2LOptimizer(rules.SGD())), monitor)
    assert len(monitor.steps) == 2
    assert len(monitor.interventions["skipped"]) == 2


def test_tensorboard(tmp_path):
    tf_events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    monitor = TrainingMonitor(every=5, log_dir=tmp_path)
    fit(L2LOptimizer(rules.SGD(0.1)), monitor)
    events = tf_events.EventAccumulator(str(tmp_path))
    events.Reload()
    tags = {f"step_size/{path}" for path in monitor.tensors}
    assert set(events.Tags()["tensors"]) == {
        *tags,
        "guard/skipped",
        "guard/rewound",
    }
    steps = [event.step for event in events.Tensors("guard/skipped")]
    assert steps == monitor.steps == [1, 6]


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"keras-l2l\[tensorboard\]"):
        TrainingMonitor(log_dir=tmp_path)


def test_arguments():
    with pytest.raises(ValueError, match="`every` must be a positive integer"):
        TrainingMonitor(every=0)
