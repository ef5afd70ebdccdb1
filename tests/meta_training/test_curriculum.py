"""When a curriculum goes on, and with what."""

import shutil

import keras
import numpy as np
import pytest

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.meta_training.curriculum import Curriculum, HorizonSchedule


def _trainer(optimizer, patience=2):
    trainer = MetaTrainer(
        rules.SGD(0.02),
        tasks.Quadratic(dimensions=3),
        horizon=Curriculum((4, 8, 12), patience=patience),
        unroll=4,
        optimizees=2,
    )
    trainer.compile(optimizer)
    return trainer


def _fit(trainer, epochs, **arguments):
    return trainer.fit(
        epochs=epochs,
        steps_per_epoch=3,
        validation_task=tasks.Quadratic(dimensions=3),
        validation_episodes=2,
        verbose=0,
        **arguments,
    )


def test_it_goes_on_after_so_many_validations_without_a_lower_loss():
    progress = HorizonSchedule([(4, 4), (8, 8), (12, 12)], patience=2)
    improved = [True, False, True, False, False, False, False, False, False]
    horizons = []
    for value in improved:
        horizons.append((progress.horizons[1], progress.validation_horizon))
        progress.moves_on(value)
    assert horizons == [(4, 8)] * 5 + [(8, 12)] * 2 + [(12, 12)] * 2


def test_a_run_goes_on_from_the_best_of_a_stage():
    # It learns nothing, so that a stage lasts as long as its patience.
    trainer = _trainer(keras.optimizers.SGD(0.0))
    lengths = []

    def ruin(epoch, logs):
        (batch,) = trainer._pool.batches
        lengths.append({slot.length for slot in batch.slots})
        if epoch == 0:
            trainer.rule.learning_rate.assign(0.0)

    history = _fit(
        trainer,
        9,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=ruin)],
    ).history
    assert history["horizon"] == [4] * 3 + [8] * 2 + [12] * 4
    assert float(trainer.rule.learning_rate) == np.float32(0.02)
    expected = {
        horizon: trainer.evaluate(tasks.Quadratic(3), 2, horizon)
        for horizon in (8, 12)
    }
    ruined = history["val_loss"][1]
    assert ruined > 1.5 * expected[8]
    assert history["val_loss"] == pytest.approx(
        [expected[8], ruined, ruined] + [expected[12]] * 6, rel=1e-6
    )
    # EpisodeRunner end at the horizon that they began with.
    assert lengths[:3] == [{4}] * 3
    assert lengths[-1] == {12}


def test_resume_in_the_midst_of_a_curriculum_gives_the_same_numbers(tmp_path):
    def train(name, **arguments):
        # It moves on as soon as a validation is not the best.
        trainer = _trainer(keras.optimizers.Adam(5e-3), patience=1)
        history = _fit(trainer, 8, backup_dir=tmp_path / name, **arguments)
        del history.history["inner_steps_per_second"]
        return float(trainer.rule.learning_rate), history.history

    def keep(epoch, logs):
        if epoch > 0:
            shutil.copytree(tmp_path / "whole", tmp_path / str(epoch))

    copy = keras.callbacks.LambdaCallback(on_epoch_begin=keep)
    expected = train("whole", callbacks=[copy])
    moved = expected[1]["horizon"].index(8)
    assert moved > 0
    assert train(str(moved)) == expected  # from just before it trains at 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizons": (100,)}, "`horizons` must hold two or more"),
        ({"horizons": (100, 100)}, "each larger than the last"),
        ({"horizons": (0, 100)}, "`horizons` must be a positive integer"),
        ({"horizons": (1, 2), "patience": 0}, "`patience` must be a positive"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Curriculum(**arguments)


def test_what_a_curriculum_needs():
    with pytest.raises(ValueError, match="`validation_task` must be a task"):
        _trainer("sgd").fit()
    with pytest.raises(ValueError, match="multiple of `unroll`"):
        MetaTrainer(
            rules.SGD(), tasks.Quadratic(), Curriculum((4, 6)), unroll=4
        )
