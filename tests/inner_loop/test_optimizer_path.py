"""The optimizer in `model.fit` and the rule in `unroll` are one path."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import L2LOptimizer, presets, tasks
from keras_l2l.inner_loop.episode import start
from keras_l2l.inner_loop.unroll import compile_unroll
from tests import components
from tests.small_fit import built

SEED = 7


def _fit(task, rule, build_model, loss, steps):
    """Losses `[steps]` of `model.fit` from the task's start on its batches."""
    model = build_model()
    parameters, state = task.initial_parameters(SEED)
    for variable, value in zip(
        model.trainable_variables + model.non_trainable_variables,
        parameters + state,
    ):
        variable.assign(value)
    batches = [task.sample_batch([SEED, step]) for step in range(steps)]
    dataset = tf.data.Dataset.from_tensor_slices(
        tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *batches)
    )
    model.compile(L2LOptimizer(rule), loss=loss)
    # An epoch of one step each, as the loss of an epoch is a mean.
    history = built(model).fit(
        dataset, epochs=steps, steps_per_epoch=1, shuffle=False, verbose=0
    )
    return history.history["loss"]


def _unroll(task, rule, steps):
    # As a graph, which is what `fit` runs: an eager step rounds otherwise, and
    # a hundred steps of training amplify that to 3e-3.
    _, trajectory = compile_unroll(rule, task)(start(rule, task, SEED), steps)
    return trajectory.losses[:steps]


@pytest.mark.parametrize("name", components.rule_names())
def test_fit_gives_the_losses_of_unroll(name):
    rule = components.shared_rule(name)
    task = components.shared_task("KerasTask-mlp")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    received = _fit(task, rule, components.mlp, loss, 6)
    expected = _unroll(task, rule, 6)
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    assert len(set(received)) == 6


@components.needs_mnist
@pytest.mark.slow
def test_fit_with_the_preset_gives_the_losses_of_unroll():
    def build_model():
        return keras.Sequential(
            [
                keras.Input((784,)),
                keras.layers.Dense(20, activation="sigmoid"),
                keras.layers.Dense(10),
            ]
        )

    task = tasks.mnist_mlp()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    received = _fit(task, "lstm-mnist", build_model, loss, 100)
    expected = _unroll(task, presets.load("lstm-mnist"), 100)
    # The unroll calls the rule on other blocks of coordinates than the
    # optimizer. Their products round otherwise, and training amplifies that.
    np.testing.assert_allclose(received[:50], expected[:50], rtol=0, atol=1e-5)
    np.testing.assert_allclose(received, expected, rtol=0, atol=5e-4)
    assert received[-1] < 0.5 * received[0]
