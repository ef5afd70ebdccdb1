"""The same numbers on any number of replicas, here logical processors."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.meta_gradients import PersistentES, TruncatedBackpropagation
from tests.small_fit import mirrored

ESTIMATORS = {
    "backpropagation": TruncatedBackpropagation,
    "share": lambda: TruncatedBackpropagation(coordinate_share=0.5),
    "evolution": lambda: PersistentES(jit_compile=False),
    "vectorized": lambda: PersistentES(jit_compile=False, vectorize=True),
}


def _scope(replicas):
    if replicas == 1:
        return contextlib.nullcontext()
    return mirrored(replicas).scope()


def _trainer(replicas=1, estimator=None, use_ema=False):
    with _scope(replicas):
        trainer = MetaTrainer(
            rules.SGD(0.02),
            [tasks.Quadratic(2), tasks.Quadratic(3)],
            optimizees=5,
            horizon=(4, 12),
            unroll=4,
            estimator=estimator,
        )
        trainer.compile(
            keras.optimizers.Adam(
                1e-2, global_clipnorm=1.0, use_ema=use_ema, ema_momentum=0.5
            )
        )
    return trainer


def _fit(trainer, epochs=2, **arguments):
    """The meta-parameters, and the logs but for the time."""
    history = trainer.fit(
        epochs=epochs,
        steps_per_epoch=3,
        validation_task=tasks.Quadratic(3),
        validation_episodes=3,
        verbose=0,
        **arguments,
    )
    logs = dict(history.history)
    del logs["inner_steps_per_second"]
    return trainer.rule.get_weights(), logs


def _assert_same(received, expected, rtol):
    for a, b in zip(received[0], expected[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol)
    assert received[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        np.testing.assert_allclose(received[1][name], values, rtol=rtol)


@pytest.mark.parametrize(
    "name",
    [
        "evolution",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("backpropagation", "share", "vectorized")
        ),
    ],
)
def test_any_number_of_replicas_gives_the_same_numbers(name):
    expected = _fit(_trainer(1, ESTIMATORS[name]()))
    # Optimizees that are trained one by one are the same to the last bit.
    rtol = 1e-7 if name == "evolution" else 1e-5
    for replicas in (2, 3):
        trainer = _trainer(replicas, ESTIMATORS[name]())
        sizes = {
            index: [len(share.slots) for share in shares]
            for index, shares in trainer._pool._shares.items()
        }
        assert len(sizes) == replicas
        assert sum(map(sum, sizes.values())) == 10
        assert max(map(sum, sizes.values())) <= 5
        _assert_same(_fit(trainer), expected, rtol)


@pytest.mark.slow
def test_another_number_of_replicas_goes_on_from_a_backup(tmp_path):
    expected = _fit(_trainer(use_ema=True), epochs=3)
    for epochs, replicas in enumerate((2, 1, 3), start=1):
        trainer = _trainer(replicas, use_ema=True)
        received = _fit(trainer, epochs, backup_dir=tmp_path)
    _assert_same(received, expected, 1e-5)


def test_more_replicas_than_optimizees():
    def train(replicas):
        with _scope(replicas):
            trainer = MetaTrainer(rules.SGD(0.02), tasks.Quadratic(2))
            trainer.compile(keras.optimizers.SGD(1e-3))
        return _fit(trainer, epochs=1)

    _assert_same(train(2), train(1), 1e-7)


def test_what_belongs_to_another_strategy_is_refused():
    outside = rules.SGD(0.02)
    with (
        mirrored().scope(),
        pytest.raises(ValueError, match="`rule` must be created under"),
    ):
        MetaTrainer(outside, tasks.Quadratic(2))
    trainer = _trainer(2)
    with (
        mirrored().scope(),
        pytest.raises(ValueError, match="outside `with strategy"),
    ):
        trainer.fit()


def test_other_strategies_are_refused():
    strategy = tf.distribute.experimental.CentralStorageStrategy(["CPU:0"])
    with (
        strategy.scope(),
        pytest.raises(ValueError, match="Received: CentralStorageStrategy"),
    ):
        MetaTrainer(rules.SGD(0.02), tasks.Quadratic(2))
