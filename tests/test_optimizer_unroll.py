"""The optimizer in `model.fit` and the rule in `unroll` are one path."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import L2LOptimizer, presets, tasks
from keras_l2l.unroll import start, unroll
from tests import components

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
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=tf.nest.map_structure(
            lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), batches[0]
        ),
    )
    model.compile(L2LOptimizer(rule), loss=loss)
    # An epoch of one step each, as the loss of an epoch is a mean.
    history = model.fit(
        dataset, epochs=steps, steps_per_epoch=1, shuffle=False, verbose=0
    )
    return history.history["loss"]


def _unroll(task, rule, steps):
    carry = start(rule, task, SEED)
    _, trajectory = unroll(rule, task, carry, steps)
    return trajectory.losses[:steps]


@pytest.mark.parametrize("name", components.RULES)
def test_fit_gives_the_losses_of_unroll(name):
    rule, task = components.RULES[name](), components.TASKS["KerasTask-mlp"]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    received = _fit(task, rule, components.mlp, loss, 10)
    expected = _unroll(task, rule, 10)
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    assert len(set(received)) == 10


@components.needs_mnist
@pytest.mark.parametrize(
    ("dtype", "steps"), [("float32", 20), ("float64", 100)]
)
def test_fit_with_the_preset_gives_the_losses_of_unroll(dtype, steps):
    """In float32 for as long as training has not amplified the rounding."""

    def build_model():
        def dense(units, activation=None):
            normal = keras.initializers.RandomNormal
            return keras.layers.Dense(
                units,
                activation,
                kernel_initializer=normal(stddev=0.01),
                bias_initializer=normal(stddev=0.01),
                dtype=dtype,
            )

        return keras.Sequential(
            [
                keras.Input((784,), dtype=dtype),
                dense(20, "sigmoid"),
                dense(10),
            ]
        )

    preset = presets.load("lstm-mnist")
    rule = type(preset).from_config({**preset.get_config(), "dtype": dtype})
    rule.set_weights(preset.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, dtype=dtype
    )
    images, labels = tasks.mnist_mlp()._data
    task = tasks.KerasTask(
        build_model, (tf.cast(images, dtype), labels), loss, batch_size=128
    )
    received = _fit(task, rule, build_model, loss, steps)
    expected = _unroll(task, rule, steps)
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)
    assert received[-1] < 0.7 * received[0]
