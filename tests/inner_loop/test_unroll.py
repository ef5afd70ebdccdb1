import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import rules
from keras_l2l.inner_loop.episode import start, unpack
from keras_l2l.inner_loop.unroll import unroll
from tests import components


def _plain(rule, task, seed, steps):
    """The inner loop in its plainest form: lists, Python, eager."""
    parameters, model_state = task.initial_parameters(seed)
    state = rule.initial_state(parameters)
    losses = []
    for step in range(steps):
        batch = task.sample_batch([seed, step])
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            loss, model_state = task.loss(parameters, model_state, batch)
        losses.append(float(loss))
        gradients = [
            tf.convert_to_tensor(g) for g in tape.gradient(loss, parameters)
        ]
        updates, state = rule(gradients, parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
    last, _ = task.loss(
        parameters, model_state, task.sample_batch([seed, steps])
    )
    return [*losses, float(last)], parameters, model_state


# Biases before a batch normalisation have no gradient but what is rounded, to
# whose sign the rule answers: those of cifar_convnet are never the same.
@pytest.mark.parametrize("name", components.task_names(("cifar_convnet",)))
def test_unroll_is_the_plain_loop(name):
    task = components.shared_task(name)
    rule = components.shared_rule("Adam")
    losses, parameters, model_state = _plain(rule, task, 3, 6)
    carry, trajectory = tf.function(lambda c: unroll(rule, task, c, 6))(
        start(rule, task, 3)
    )
    np.testing.assert_allclose(trajectory.losses, losses, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(unpack(rule, task, carry.parameters), parameters):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(carry.model_state, model_state):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert int(carry.step) == 6
    assert trajectory.gradients is None


@pytest.mark.parametrize("rule_name", components.rule_names())
def test_two_short_unrolls_are_one_long(rule_name):
    task = components.shared_task("KerasTask-mlp")
    rule = components.shared_rule(rule_name)
    once, long = unroll(rule, task, start(rule, task, 1), 6)
    half, first = unroll(rule, task, start(rule, task, 1), 3)
    twice, second = unroll(rule, task, half, 3)
    np.testing.assert_allclose(long.losses[:4], first.losses, rtol=1e-6)
    np.testing.assert_allclose(long.losses[3:], second.losses, rtol=1e-6)
    for a, b in zip(tf.nest.flatten(once), tf.nest.flatten(twice)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_recorded_gradients_are_the_losses_gradients():
    task, rule = components.shared_task("Quadratic"), rules.SGD(0.01)
    carry = start(rule, task, 1)
    _, trajectory = unroll(rule, task, carry, 4, record_gradients=True)
    (gradients,) = trajectory.gradients  # [5, 10]
    theta = carry.parameters[0]
    for gradient in gradients:
        (matrix, target) = carry.model_state
        residual = tf.linalg.matvec(matrix[0], theta) - target[0]
        expected = 2 * tf.linalg.matvec(matrix[0], residual, transpose_a=True)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)
        theta = theta - 0.01 * gradient


def test_the_same_seed_gives_the_same_curve():
    task, rule = components.shared_task("KerasTask-convnet"), rules.Adam(0.01)

    def losses(seed):
        return unroll(rule, task, start(rule, task, seed), 3)[1].losses.numpy()

    np.testing.assert_array_equal(losses(1), losses(1))
    assert not np.allclose(losses(1), losses(2))


def test_python_unroll_equals_the_loop():
    task, rule = components.shared_task("KerasTask-convnet"), rules.Adam(0.01)
    carry = start(rule, task, 1)
    loop = unroll(rule, task, carry, 3, record_gradients=True)
    python = unroll(
        rule, task, carry, 3, record_gradients=True, differentiable=True
    )
    for a, b in zip(tf.nest.flatten(loop), tf.nest.flatten(python)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
