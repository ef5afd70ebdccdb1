"""What `fit` does between epochs: validation, the best rule, divergence."""

import keras
import numpy as np
import pytest

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.meta_gradients import PersistentES
from keras_l2l.meta_training import Curriculum


def _trainer(optimizer=None, rate=0.02, **arguments):
    arguments = {"horizon": 12, "unroll": 4, **arguments}
    trainer = MetaTrainer(rules.SGD(rate), tasks.Quadratic(3), **arguments)
    trainer.compile(optimizer or keras.optimizers.Adam(1e-2))
    return trainer


def _fit(trainer, epochs=1, steps_per_epoch=3, **arguments):
    arguments = {"validation_episodes": 2, "verbose": 0, **arguments}
    return trainer.fit(epochs, steps_per_epoch, **arguments).history


def test_the_best_rule_is_kept():
    trainer = _trainer()
    task = tasks.Quadratic(3)

    def ruin(epoch, logs):
        if epoch == 2:
            for weight in trainer.rule.weights:
                weight.assign(0.0 * weight)

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


def _with_average():
    return keras.optimizers.SGD(1e-4, use_ema=True, ema_momentum=0.8)


def test_the_rule_ends_with_its_average():
    trainer = _trainer(_with_average())
    rates = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(
            float(trainer.rule.learning_rate)
        )
    )
    _fit(trainer, 2, callbacks=[record])
    average = rates[0]
    for rate in rates[1:]:
        average = 0.8 * average + 0.2 * rate
    assert float(trainer.rule.learning_rate) == pytest.approx(average)
    assert average != pytest.approx(rates[-1])


def test_validation_and_the_best_rule_are_those_of_the_average():
    task = tasks.Quadratic(3)
    trainer = _trainer(_with_average())
    raw = []
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: raw.append(
                trainer.evaluate(task, 2)
            )
        )
    ]
    losses = _fit(trainer, 3, validation_task=task, callbacks=callbacks)[
        "val_loss"
    ]
    assert not np.isclose(losses, raw).any()
    assert trainer.evaluate(task, 2) == pytest.approx(min(losses), rel=1e-6)
    # Training goes on from there, and so does the average.
    (average,) = trainer.optimizer._model_variables_moving_average
    assert float(average) == float(trainer.rule.learning_rate)


def test_validation_side_by_side_is_that_one_by_one():
    """With its standard error: of two tasks, of three optimizees each."""
    made = [tasks.Quadratic(2), tasks.Quadratic(3)]
    losses = []
    for vectorize in (False, True):
        trainer = MetaTrainer(
            rules.SGD(0.01),
            made,
            horizon=4,
            unroll=2,
            loss_weights=[1.0, 2.0, 3.0, 4.0],
            estimator=PersistentES(vectorize=vectorize),
        )
        trainer.compile("adam", jit_compile=vectorize)
        losses.append(trainer.validation_loss(made, 3))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    alone = np.array(
        [
            [
                trainer.validation_loss(task, count).mean * count
                for count in (1, 2, 3)
            ]
            for task in made
        ]
    )
    episodes = np.diff(alone, axis=1, prepend=0.0)
    errors = episodes.std(1, ddof=1) / 3**0.5
    assert losses[0].standard_error == pytest.approx(
        np.linalg.norm(errors) / 2, rel=1e-3
    )
    assert np.isnan(trainer.validation_loss(made, 1).standard_error)


def test_a_curriculum_goes_back_to_the_best_average():
    trainer = _trainer(
        _with_average(), horizon=Curriculum((4, 8), patience=1), unroll=4
    )
    (average,) = trainer.optimizer._model_variables_moving_average
    averages = []

    def ruin(epoch, logs):
        averages.append(float(average))
        if epoch == 0:
            trainer.rule.learning_rate.assign(1.0)
            average.assign(1.0)

    def begin(epoch, logs):
        if epoch == 2:
            assert float(average) == averages[0]
            assert float(trainer.rule.learning_rate) == averages[0]

    history = _fit(
        trainer,
        3,
        validation_task=tasks.Quadratic(3),
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_begin=begin, on_epoch_end=ruin
            )
        ],
    )
    assert history["horizon"] == [4, 4, 8]


@pytest.mark.filterwarnings("ignore:Every episode of epoch")
def test_a_run_in_which_every_episode_diverges_is_an_error(tmp_path):
    for _ in range(2):  # A finished run ends with the same error again.
        trainer = _trainer(_with_average(), rate=30.0)
        with pytest.raises(RuntimeError, match="Every episode of this run"):
            _fit(trainer, 2, backup_dir=tmp_path)
        assert (tmp_path / "backup.npz").exists()
        assert trainer.history.history["diverged"] == [3, 3]
        # Nothing was learned from them, and there is no average yet.
        assert float(trainer.rule.learning_rate) == 30.0


def test_an_epoch_in_which_every_episode_diverges_is_a_warning():
    trainer = _trainer(rate=30.0)

    def mend(epoch, logs):
        trainer.rule.learning_rate.assign(0.02)

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=mend)]
    with pytest.warns(RuntimeWarning, match="Every episode of epoch 1") as all_:
        history = _fit(trainer, 3, callbacks=callbacks)
    assert len(all_) == 1
    assert history["diverged"] == [3, 0, 0]
