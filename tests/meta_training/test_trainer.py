import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from keras_l2l.meta_training import checkpoint
from tests import components


def _trainer(seed=0, task=None, rule=None, optimizer=None, **arguments):
    rule = rule or rules.CoordinatewiseLSTM(units=4, seed=seed)
    task = task or tasks.Quadratic(dimensions=3)
    arguments = {"horizon": 12, "unroll": 4, **arguments}
    trainer = MetaTrainer(rule, task, **arguments)
    trainer.compile(optimizer or keras.optimizers.Adam(1e-2))
    return trainer


def test_meta_training_improves_the_rule():
    task = tasks.Quadratic(dimensions=5, functions=8)
    trainer = _trainer(task=task, horizon=20, unroll=10, optimizees=2)
    before = trainer.evaluate(task)
    history = trainer.fit(epochs=3, steps_per_epoch=40, verbose=0)
    assert trainer.evaluate(task) < 0.8 * before
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert history.epoch == [0, 1, 2]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lion"])
def test_any_keras_optimizer(optimizer):
    trainer = _trainer(optimizer=optimizer)
    before = trainer.rule.get_weights()
    trainer.fit(steps_per_epoch=2, verbose=0)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(before, trainer.rule.get_weights())
    )


def test_keras_callbacks(tmp_path):
    trainer = _trainer()
    task = tasks.Quadratic(dimensions=3)
    seen = []
    callbacks = [
        keras.callbacks.EarlyStopping(patience=100),
        keras.callbacks.ReduceLROnPlateau(patience=100),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "{epoch}.weights.h5",
            save_weights_only=True,
            save_best_only=True,
        ),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append(logs)
        ),
    ]
    history = trainer.fit(
        epochs=2,
        steps_per_epoch=3,
        validation_task=task,
        validation_episodes=2,
        callbacks=callbacks,
        verbose=0,
    )
    assert set(history.history) == {
        "loss",
        "val_loss",
        "diverged",
        "inner_steps_per_second",
        "learning_rate",
    }
    assert len(seen) == 6
    assert all(logs["inner_steps_per_second"] > 0 for logs in seen)
    assert (tmp_path / "1.weights.h5").exists()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert float(trainer.optimizer.learning_rate) == pytest.approx(2.5e-3)


def test_clipnorm_bounds_the_meta_gradient_of_each_optimizee():
    task = tasks.Quadratic(dimensions=3)
    before = _trainer(task=task).rule.get_weights()

    def change(clipnorm):
        trainer = _trainer(
            task=task,
            optimizees=2,
            clipnorm=clipnorm,
            optimizer=keras.optimizers.SGD(1.0),
        )
        trainer.fit(steps_per_epoch=1, verbose=0)
        after = trainer.rule.get_weights()
        return np.concatenate([np.ravel(a - b) for a, b in zip(after, before)])

    assert np.linalg.norm(change(None)) > 1e-2
    assert 0 < np.linalg.norm(change(1e-3)) < 1.0001e-3
    with pytest.raises(ValueError, match="`clipnorm` must be a positive"):
        change(0.0)


def test_early_stopping_stops():
    trainer = _trainer(optimizer=keras.optimizers.SGD(1e-12))
    history = trainer.fit(
        epochs=20,
        steps_per_epoch=1,
        validation_task=tasks.Quadratic(dimensions=3),
        validation_episodes=1,
        callbacks=[keras.callbacks.EarlyStopping(patience=2, min_delta=0.1)],
        verbose=0,
    )
    assert len(history.epoch) == 3


def test_tensorboard(tmp_path):
    trainer = _trainer()
    trainer.fit(
        steps_per_epoch=2,
        callbacks=[keras.callbacks.TensorBoard(tmp_path)],
        verbose=0,
    )
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    tags = {
        value.tag
        for record in tf.data.TFRecordDataset(str(events))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }
    assert {"epoch_loss", "epoch_inner_steps_per_second"} <= tags


def test_the_progress_bar_shows_the_meta_loss(capsys):
    _trainer().fit(steps_per_epoch=2, verbose=2)
    printed = capsys.readouterr().out
    assert "loss:" in printed
    assert "inner_steps_per_second:" in printed


def test_weights_save_and_load(tmp_path):
    trainer = _trainer()
    trainer.fit(steps_per_epoch=2, verbose=0)
    trainer.save_weights(tmp_path / "a.weights.h5")
    twin = _trainer(seed=1)
    twin.load_weights(tmp_path / "a.weights.h5")
    for a, b in zip(trainer.rule.get_weights(), twin.rule.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_new_episodes_do_not_retrace():
    trainer = _trainer(optimizees=2)
    trainer.fit(epochs=2, steps_per_epoch=8, verbose=0)
    (function,) = trainer._outer_loop._functions.values()
    assert function.experimental_get_tracing_count() == 1


def test_several_tasks_take_part():
    task_list = [tasks.Quadratic(2), components.TASKS["KerasTask-mlp"]()]
    trainer = _trainer(task=task_list, optimizees=2)
    trainer.fit(steps_per_epoch=2, verbose=0)
    assert trainer._outer_loop.inner_steps == 2 * 2 * 4


def test_loss_weights_count():
    """Only what carries weight is learned from."""
    none = _trainer(loss_weights=np.zeros(12))
    before = none.rule.get_weights()
    history = none.fit(steps_per_epoch=3, verbose=0)
    assert history.history["loss"] == [0.0]
    for a, b in zip(before, none.rule.get_weights()):
        np.testing.assert_array_equal(a, b)

    def first_loss(weights):
        trainer = _trainer(loss_weights=weights)
        return trainer.fit(steps_per_epoch=1, verbose=0).history["loss"][0]

    last = np.zeros(12)
    last[3] = 1.0  # the end of the first unroll
    every = first_loss(np.full(12, 2.0))
    assert every == pytest.approx(2 * first_loss(None))
    assert 0 < first_loss(last) < every


def test_optimizees_are_spread_over_the_horizon():
    trainer = _trainer(optimizees=3)
    trainer.fit(steps_per_epoch=3, verbose=0)
    (group,) = trainer._outer_loop._groups
    assert len({place.position for place in group.places}) == 3


def test_one_by_one_and_side_by_side_learn_the_same():
    def train(**arguments):
        trainer = _trainer(
            task=components.TASKS["KerasTask-mlp"](), optimizees=5, **arguments
        )
        history = trainer.fit(epochs=2, steps_per_epoch=4, verbose=0).history
        groups = len(trainer._outer_loop._groups)
        return groups, history["loss"], trainer.rule.get_weights()

    # A norm that is never reached changes nothing, except that each
    # optimizee's meta-gradient must be known.
    one_by_one, expected, expected_weights = train(clipnorm=1e9)
    side_by_side, received, weights = train()
    assert (one_by_one, side_by_side) == (5, 1)
    np.testing.assert_allclose(received, expected, rtol=1e-4)
    for a, b in zip(weights, expected_weights):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


class Exploding(tasks.Quadratic):
    """Its loss is NaN from the sixth inner step of every second episode."""

    def sample_batch(self, seed):
        return tf.cast(seed, tf.float32)

    def loss(self, parameters, model_state, batch):
        loss, model_state = super().loss(parameters, model_state, ())
        bad = (batch[1] > 5) & (batch[0] % 2 == 0)
        return tf.where(bad, np.nan, 1.0) * loss, model_state


def test_a_diverging_episode_is_cut_and_counted():
    trainer = _trainer(task=Exploding(3), optimizees=4)
    history = trainer.fit(epochs=4, steps_per_epoch=6, verbose=0)
    assert sum(history.history["diverged"]) > 0
    assert np.isfinite(history.history["loss"]).all()
    for weight in trainer.rule.get_weights():
        assert np.isfinite(weight).all()


def test_a_loss_beyond_the_limit_is_divergence():
    trainer = _trainer(rule=rules.SGD(30.0), optimizer="sgd")
    history = trainer.fit(steps_per_epoch=5, verbose=0)
    assert history.history["diverged"] == [5]
    assert np.isnan(history.history["loss"]).all()
    # Nothing was learned from them.
    assert float(trainer.rule.learning_rate) == 30.0
    assert trainer.evaluate(tasks.Quadratic(3)) > 1e3


def test_the_best_rule_is_kept():
    trainer = _trainer()
    task = tasks.Quadratic(3)

    def ruin(epoch, logs):
        if epoch == 2:
            for weight in trainer.rule.weights:
                weight.assign(weight * 0.0 + 5.0)

    history = trainer.fit(
        epochs=4,
        steps_per_epoch=5,
        validation_task=task,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=ruin)],
        verbose=0,
    )
    values = history.history["val_loss"]
    assert values[3] > min(values)
    assert trainer.evaluate(task) == pytest.approx(min(values), rel=1e-5)


def _train(directory, epochs, **arguments):
    trainer = _trainer(optimizees=2, **arguments)
    history = trainer.fit(
        epochs=epochs,
        steps_per_epoch=4,
        validation_task=tasks.Quadratic(3),
        validation_episodes=2,
        verbose=0,
        backup_dir=directory,
    )
    numbers = dict(history.history)
    del numbers["inner_steps_per_second"]
    return trainer.rule.get_weights(), numbers, history.epoch


def test_resume_gives_the_same_numbers(tmp_path):
    expected = _train(tmp_path / "whole", 5)
    _train(tmp_path / "parts", 2)
    received = _train(tmp_path / "parts", 5)
    for a, b in zip(expected[0], received[0]):
        np.testing.assert_array_equal(a, b)
    assert received[1:] == expected[1:]
    # A finished run has nothing left to do.
    again = _train(tmp_path / "parts", 5)
    for a, b in zip(expected[0], again[0]):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_a_callback_stopped_stays_stopped(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    for callbacks in ([Stop()], []):
        history = _trainer().fit(
            epochs=4,
            steps_per_epoch=1,
            callbacks=callbacks,
            verbose=0,
            backup_dir=tmp_path,
        )
        assert history.epoch == [0, 1]


SCRIPT = """
import sys, numpy as np, keras
from keras_l2l import MetaTrainer, rules, tasks

rule = rules.CoordinatewiseLSTM(units=4, seed=0)
task = tasks.digits_mlp(units=3, batch_size=16)
trainer = MetaTrainer(rule, task, horizon=12, unroll=4, optimizees=2)
trainer.compile(keras.optimizers.Adam(1e-2))
trainer.fit(epochs=12, steps_per_epoch=5, validation_task=task,
            validation_episodes=2, verbose=0, backup_dir=sys.argv[1])
np.savez(sys.argv[2], *rule.get_weights())
"""


def test_a_killed_process_resumes_with_the_same_numbers(tmp_path):
    """A real process, killed with SIGKILL in the middle of its epochs."""

    def command(name):
        return [
            sys.executable, "-c", SCRIPT,
            str(tmp_path / name), str(tmp_path / f"{name}.npz"),
        ]  # fmt: skip

    subprocess.run(command("whole"), check=True, capture_output=True)

    process = subprocess.Popen(
        command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    path = tmp_path / "killed" / "backup.npz"
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.read(path)[1]["epoch"] < 12
    assert not (tmp_path / "killed.npz").exists()

    subprocess.run(command("killed"), check=True, capture_output=True)
    with (
        np.load(tmp_path / "whole.npz") as a,
        np.load(tmp_path / "killed.npz") as b,
    ):
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    "arguments",
    [
        {"horizon": 8},
        {"loss_weights": np.arange(12.0)},
        {"estimator": TruncatedBackpropagation(coordinate_share=0.5)},
        {"optimizer": keras.optimizers.Nadam(1e-2)},
        {"task": tasks.Quadratic(dimensions=4)},
    ],
    ids=["horizon", "loss_weights", "estimator", "optimizer", "task"],
)
def test_a_backup_of_another_run_is_refused(tmp_path, arguments):
    _train(tmp_path, 1)
    before = (tmp_path / "backup.npz").read_bytes()
    with pytest.raises(ValueError, match="must hold a backup of this run"):
        _train(tmp_path, 1, **arguments)
    assert (tmp_path / "backup.npz").read_bytes() == before


def test_a_corrupt_backup_is_refused_and_kept(tmp_path):
    (tmp_path / "backup.npz").write_bytes(b"no backup")
    with pytest.raises(ValueError, match="cannot be read"):
        _train(tmp_path, 1)
    assert (tmp_path / "backup.npz").read_bytes() == b"no backup"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rule": 3}, TypeError, "`rule` must be a"),
        ({"task": 3}, TypeError, "`task` must be a"),
        ({"task": []}, TypeError, "`task` must be a"),
        ({"horizon": 10, "unroll": 4}, ValueError, "multiple of `unroll`"),
        ({"unroll": 0}, ValueError, "`unroll` must be a positive integer"),
        ({"optimizees": 1.5}, ValueError, "`optimizees` must be a positive"),
        ({"loss_weights": [1.0]}, ValueError, "one finite float for each"),
        ({"estimator": 3}, TypeError, "`estimator` must be a"),
        ({"divergence_limit": 1.0}, ValueError, "must be greater than 1"),
    ],
)
def test_refuses(arguments, error, message):
    good = {
        "rule": rules.SGD(),
        "task": tasks.Quadratic(),
        "horizon": 12,
        "unroll": 4,
    }
    with pytest.raises(error, match=message):
        MetaTrainer(**{**good, **arguments})


def test_fit_before_compile_is_refused():
    trainer = MetaTrainer(rules.SGD(), tasks.Quadratic())
    with pytest.raises(ValueError, match=r"Call `trainer\.compile"):
        trainer.fit()


def test_what_cannot_work_says_what_does(tmp_path):
    trainer = _trainer()
    with pytest.raises(ValueError, match="`fit\\(backup_dir="):
        trainer.fit(callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    with pytest.raises(NotImplementedError, match=r"rule.export\(path\)"):
        trainer.save(tmp_path / "a.keras")
