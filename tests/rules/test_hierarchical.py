"""Stacks of equal shapes, and what the second version adds."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_l2l import rules
from keras_l2l.rules.stacking import ShapeStacks
from tests import components

SHAPES = [(4, 3), (5,), (), (4, 3), (2, 2, 3), (5,), (4, 3)]


def _tensors(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return [
        ops.cast(scale * generator.normal(size=shape), "float32")
        for shape in SHAPES
    ]


@functools.cache
def _graph(rule):
    return tf.function(rule.__call__, autograph=False)


def _steps(rule, parameters, gradients):
    state = rule.initial_state(parameters)
    for gradient in gradients:
        updates, state = _graph(rule)(gradient, parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
    return parameters, state


@pytest.fixture(
    params=[
        pytest.param("Hierarchical", marks=pytest.mark.slow),
        "Hierarchical-2",
    ]
)
def rule(request):
    return components.shared_rule(request.param)


@pytest.fixture
def second():
    return components.shared_rule("Hierarchical-2")


def test_stacks_come_apart_as_they_were():
    tensors = _tensors(0)
    stacks = ShapeStacks(tensors, "float32")
    received = stacks.stack(tensors)
    assert [tuple(stack.shape) for stack in received] == [
        (3, 12),
        (2, 5),
        (1, 1),
        (1, 12),
    ]
    for one, two in zip(stacks.unstack(received), tensors, strict=True):
        np.testing.assert_array_equal(one, two)
    numbers = [float(i) for i in range(len(SHAPES))]
    ordered = stacks.stack_scalars(numbers)
    assert ops.convert_to_numpy(ordered).tolist() == [0, 3, 6, 1, 5, 2, 4]
    np.testing.assert_array_equal(stacks.unstack_scalars(ordered), numbers)
    assert [len(part) for part in stacks.split(ordered)] == [3, 2, 1, 1]


def test_the_update_of_a_tensor_depends_on_it_alone(rule):
    """Stacked with others of its shape, and on its own."""
    gradients = [_tensors(seed, 10.0 ** (seed % 3)) for seed in (1, 2, 3)]
    together, _ = _steps(rule, _tensors(0), gradients)
    for i, expected in enumerate(together):
        alone, _ = _steps(rule, [_tensors(0)[i]], [[g[i]] for g in gradients])
        np.testing.assert_allclose(alone[0], expected, rtol=2e-5, atol=1e-6)


def test_a_config_without_a_version_is_of_the_first(rule):
    config = rule.get_config()
    assert ("version" in config) == (rule.version == 2)
    assert rules.Hierarchical.from_config(config).version == rule.version


def test_refuses_another_version():
    with pytest.raises(ValueError, match=r"`version` must be one of \[1, 2\]"):
        rules.Hierarchical(version=3)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_zero_gradients_change_nothing(second, steps_before):
    """Neither at the start nor after others, whose momenta are still there."""
    parameters = _tensors(0)
    state = second.initial_state(parameters)
    zeros = [ops.zeros_like(tensor) for tensor in parameters]
    for step in range(steps_before + 3):
        gradients = _tensors(step) if step < steps_before else zeros
        updates, state = _graph(second)(gradients, parameters, state)
    for update in updates:
        np.testing.assert_array_equal(update, np.zeros(update.shape))


def test_steps_shrink_with_the_gradients(second):
    """Once they are a thousandth of those before, so are the updates."""
    parameters = _tensors(0)
    state = second.initial_state(parameters)
    step = _graph(second)
    for seed in range(1, 5):
        first, state = step(_tensors(seed), parameters, state)
    for seed in range(5, 60):
        last, state = step(_tensors(seed, 1e-3), parameters, state)
    for one, two in zip(first, last):
        assert np.linalg.norm(two) < 0.1 * np.linalg.norm(one)


@pytest.mark.parametrize("scale", [1e-6, 1e8])
def test_the_scale_of_the_loss_does_not_matter(rule, scale):
    gradients = [_tensors(seed) for seed in range(1, 6)]
    expected, _ = _steps(rule, _tensors(0), gradients)
    received, _ = _steps(
        rule, _tensors(0), [[scale * g for g in gs] for gs in gradients]
    )
    for one, two in zip(received, expected):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=2e-5)


def test_one_huge_gradient_does_not_stop_a_training(second):
    """It counts for twice the mean of those before."""
    gradients = [_tensors(seed) for seed in range(1, 10)]
    _, usual = _steps(second, _tensors(0), gradients)
    gradients[4] = [1e4 * g for g in gradients[4]]
    _, outlier = _steps(second, _tensors(0), gradients)
    for one, two in zip(usual.local, outlier.local):
        assert float(two["mean_square"]) < 3.0 * float(one["mean_square"])


def test_a_bias_travels_far():
    """The mean absolute error of targets of 150, from a bias of zero."""
    rule = rules.Hierarchical(version=2)
    parameters = [tf.zeros((1,))]
    state = rule.initial_state(parameters)
    step = tf.function(rule.__call__, autograph=False)
    for _ in range(1000):
        gradient = tf.sign(parameters[0] - 150.0)
        updates, state = step([gradient], parameters, state)
        parameters = [parameters[0] + updates[0]]
    assert abs(float(parameters[0][0]) - 150.0) < 15.0


@pytest.mark.parametrize("zero", ["gradients", "parameters", "both"])
def test_derivatives_at_zeros_are_finite(rule, zero):
    """A model whose last layer starts at zero has gradients of zero."""
    parameters, gradients = _tensors(0), _tensors(1)
    if zero != "gradients":
        parameters = [ops.zeros_like(p) for p in parameters]
    if zero != "parameters":
        gradients = [ops.zeros_like(g) for g in gradients]
    with tf.GradientTape() as tape:
        tape.watch([parameters, gradients])
        received, _ = _steps(rule, parameters, [gradients, _tensors(2)])
        loss = tf.add_n([tf.reduce_sum(tf.square(p)) for p in received])
    derivatives = tape.gradient(loss, [rule.trainable_variables, parameters])
    for derivative in tf.nest.flatten(derivatives):
        assert np.isfinite(derivative).all()
