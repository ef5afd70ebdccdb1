import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import MetaTrainer, rules, tasks
from tests import components


def _lstm(seed=0):
    return rules.CoordinatewiseLSTM(units=3, layers=1, seed=seed)


def _trainer(task=None, rule=None, optimizer=None, **arguments):
    # A rule of one meta-parameter is traced in a fraction of an LSTM's time.
    rule = rule or rules.SGD(0.02)
    task = task or tasks.Quadratic(dimensions=3)
    arguments = {"horizon": 12, "unroll": 4, **arguments}
    trainer = MetaTrainer(rule, task, **arguments)
    trainer.compile(optimizer or keras.optimizers.Adam(1e-2))
    return trainer


def test_meta_training_improves_the_rule():
    task = tasks.Quadratic(dimensions=5, functions=8)
    trainer = _trainer(
        task=task, rule=_lstm(), horizon=20, unroll=10, optimizees=2
    )
    before = trainer.evaluate(task)
    history = trainer.fit(epochs=3, steps_per_epoch=40, verbose=0)
    assert trainer.evaluate(task) < 0.8 * before
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert history.epoch == [0, 1, 2]


@pytest.mark.parametrize(
    "optimizer",
    [
        "lion",
        *(pytest.param(o, marks=pytest.mark.slow) for o in ("sgd", "adam")),
    ],
)
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
        "val_loss_standard_error",
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
    before = _lstm().get_weights()

    def change(clipnorm):
        trainer = _trainer(
            task=task,
            rule=_lstm(),
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
    trainer = _trainer(rule=_lstm())
    trainer.save_weights(tmp_path / "a.weights.h5")
    twin = _trainer(rule=_lstm(seed=1))
    twin.load_weights(tmp_path / "a.weights.h5")
    for a, b in zip(trainer.rule.get_weights(), twin.rule.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_new_episodes_do_not_retrace():
    trainer = _trainer(optimizees=2)
    trainer.fit(epochs=2, steps_per_epoch=8, verbose=0)
    (function,) = trainer._pool._functions.values()
    assert function.experimental_get_tracing_count() == 1


def test_several_tasks_take_part():
    task_list = [tasks.Quadratic(2), components.TASKS["KerasTask-mlp"]()]
    trainer = _trainer(task=task_list, optimizees=2)
    trainer.fit(steps_per_epoch=2, verbose=0)
    assert trainer._pool.inner_steps == 2 * 2 * 4


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
    (batch,) = trainer._pool.batches
    assert len({slot.position for slot in batch.slots}) == 3


@pytest.mark.slow
def test_one_by_one_and_side_by_side_learn_the_same():
    def train(**arguments):
        trainer = _trainer(
            task=components.TASKS["KerasTask-mlp"](),
            rule=_lstm(),
            optimizees=5,
            **arguments,
        )
        history = trainer.fit(epochs=2, steps_per_epoch=4, verbose=0).history
        batches = len(trainer._pool.batches)
        return batches, history["loss"], trainer.rule.get_weights()

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


def test_fit_before_compile_is_refused():
    trainer = MetaTrainer(rules.SGD(), tasks.Quadratic())
    with pytest.raises(ValueError, match=r"Call `trainer\.compile"):
        trainer.fit()


def test_what_cannot_work_says_what_does(tmp_path):
    trainer = _trainer()
    for callback, message in (
        (keras.callbacks.BackupAndRestore(tmp_path), r"fit\(backup_dir="),
        (keras.callbacks.SwapEMAWeights(), "those of the average anyway"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.fit(callbacks=[callback])
    with pytest.raises(NotImplementedError, match=r"rule.export\(path\)"):
        trainer.save(tmp_path / "a.keras")


def test_a_callback_stops_an_epoch():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    batches = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(batch)
    )
    history = _trainer().fit(
        epochs=2, steps_per_epoch=4, callbacks=[count, Stop()], verbose=0
    )
    assert batches == [0, 1]
    assert history.epoch == [0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(1e-2, loss_scale_factor=1024.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-2)),
    ],
    ids=["loss_scale_factor", "LossScaleOptimizer"],
)
def test_a_loss_scale_changes_nothing(make):
    """Powers of two, so that scaling is exact."""
    assert _learning_rate(make()) == _plain_learning_rate()


def test_no_loss_scale_is_added_under_mixed_precision():
    expected = _plain_learning_rate()
    optimizer = keras.optimizers.SGD(1e-2)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        # The rule itself is in float32, as a rule for meta-training should be.
        assert _learning_rate(optimizer, dtype="float32") == expected
    finally:
        keras.config.set_dtype_policy("float32")


@functools.cache
def _plain_learning_rate():
    return _learning_rate(keras.optimizers.SGD(1e-2))


def _learning_rate(optimizer, **arguments):
    rule = rules.SGD(0.02, **arguments)
    trainer = _trainer(rule=rule, optimizer=optimizer)
    trainer.fit(steps_per_epoch=3, verbose=0)
    assert trainer.optimizer is optimizer
    assert float(rule.learning_rate) != np.float32(0.02)
    return float(rule.learning_rate)


def test_a_trainer_is_released():
    trainer = _trainer()
    trainer.fit(steps_per_epoch=1, verbose=0)
    kept = [
        weakref.ref(part)
        for part in (
            trainer,
            trainer.rule,
            *trainer._pool._functions.values(),
        )
    ]
    del trainer
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)
