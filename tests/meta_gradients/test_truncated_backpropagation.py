"""The meta-gradient against an outer tape and against finite differences."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import rules, tasks
from keras_l2l.execution import partition
from keras_l2l.execution.stacked_arrays import floating
from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.inner_loop.episode import Carry, start, unpack
from keras_l2l.inner_loop.unroll import inner_step, loss_and_gradients, unroll
from keras_l2l.meta_gradients import second_order
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.meta_gradients.recorded_steps import recorded_bytes
from keras_l2l.meta_gradients.second_order import backpropagate
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from tests import components

STEPS = 5
WEIGHTS = tf.constant([1.0, 0.5, 2.0, 0.0, 1.5])
SEED = tf.constant([0, 0])


def _outer_tape(rule, task, carry, weights):
    """A tape through everything; only ∂∇f/∂φ is cut, as in the paper."""
    with tf.GradientTape() as tape:
        _, trajectory = unroll(
            rule, task, carry, len(weights), differentiable=True
        )
        losses = trajectory.losses[1:]
        objective = tf.reduce_mean(tf.cast(weights, losses.dtype) * losses)
    return trajectory.losses, tape.gradient(
        objective,
        [v.value for v in rule.trainable_variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def _flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


def _relative_difference(a, b):
    a, b = _flat(a), _flat(b)
    assert np.linalg.norm(b) > 0
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def _pairs():
    """Every task and every rule once; the other pairs are `slow`."""
    fast = {
        "KerasTask-mlp": "CoordinatewiseLSTM",
        "KerasTask-convnet": "Momentum",
        "KerasTask-recurrent": "Adam",
        "KerasTask-two-by-two": "Momentum",
        "Quadratic": "CoordinatewiseLSTM",
    }
    return [
        pytest.param(
            task, rule, marks=() if rule == fast[task] else pytest.mark.slow
        )
        for task in fast
        for rule in ("CoordinatewiseLSTM", "Adam", "Momentum")
    ]


@pytest.mark.parametrize(("task_name", "rule_name"), _pairs())
def test_equals_an_outer_tape(task_name, rule_name):
    task = components.shared_task(task_name)
    rule = components.shared_rule(rule_name)
    # Not the first unroll of an episode: state and parameters are in motion.
    carry, _ = unroll(rule, task, start(rule, task, 1), 3)
    estimate = TruncatedBackpropagation()(
        rule, task, carry, MetaLoss(WEIGHTS), SEED
    )
    losses, expected = _outer_tape(rule, task, carry, WEIGHTS)
    np.testing.assert_allclose(estimate.losses, losses, rtol=1e-5)
    assert _relative_difference(estimate.gradients, expected) < 1e-5


@pytest.mark.parametrize(
    "rule_name",
    [
        "NTMBFGS",
        pytest.param("NTMBFGS-low-rank", marks=pytest.mark.slow),
        pytest.param("Grouped", marks=pytest.mark.slow),
    ],
)
def test_of_rules_that_share_something(rule_name):
    """One pass over all coordinates, and never a share of them."""
    test_equals_an_outer_tape("KerasTask-mlp", rule_name)
    task = components.shared_task("KerasTask-mlp")
    rule = components.shared_rule(rule_name)
    with pytest.raises(ValueError, match=r"`coordinate_share` must be 1\.0"):
        TruncatedBackpropagation(coordinate_share=0.5)(
            rule, task, start(rule, task, 1), MetaLoss(WEIGHTS), SEED
        )


@pytest.mark.parametrize(
    ("rule_name", "coordinate_share", "blocks"),
    [
        ("CoordinatewiseLSTM", 1.0, 1),
        ("CoordinatewiseLSTM", 0.5, 4),
        pytest.param("Adam", 1.0, 4, marks=pytest.mark.slow),
        ("Adam", 0.5, 1),
    ],
)
def test_a_small_memory_budget_gives_the_same(
    rule_name, coordinate_share, blocks, monkeypatch
):
    """Slices of coordinates, of which the last one is not full."""
    if blocks > 1:
        monkeypatch.setattr(partition, "BLOCK_SIZE", 8)
    task = components.shared_task("KerasTask-mlp")
    rule = components.shared_rule(rule_name)
    carry, _ = unroll(rule, task, start(rule, task, 1), 3)
    assert len(carry.parameters) == blocks
    # Room for 7 coordinates.
    small = 7 * recorded_bytes(rule, STEPS)

    def gradients(memory_budget):
        estimator = TruncatedBackpropagation(
            coordinate_share=coordinate_share, memory_budget=memory_budget
        )
        return estimator(rule, task, carry, MetaLoss(WEIGHTS), SEED).gradients

    assert _relative_difference(gradients(small), gradients(2**30)) < 1e-5


class TensorRule(rules.UpdateRule):
    """A rule whose tensors are independent, with a shared step count."""

    def __init__(self):
        super().__init__()
        self.rate = self.add_weight(shape=(), initializer="ones")

    @property
    def granularity(self):
        return "tensor"

    def initial_state(self, parameters):
        local = [tf.zeros_like(parameter) for parameter in parameters]
        return rules.RuleState(local, {"decay": tf.ones([])})

    def call(self, gradients, parameters, state):
        decay = state.shared["decay"] * (1.0 - 0.1 * self.rate)
        local = [
            0.9 * s + self.rate * g + 0.1 * p
            for s, g, p in zip(state.local, gradients, parameters)
        ]
        updates = [-0.1 * decay * s / (tf.norm(s) + 0.1) for s in local]
        return updates, rules.RuleState(local, {"decay": decay})


def _hierarchical():
    # In float64, as orthogonal matrices amplify how XLA rounds.
    rule = rules.Hierarchical(
        units=4, coordinate_units=3, seed=1, dtype="float64"
    )
    rule.set_weights(components.RULES["Hierarchical"]().get_weights())
    return rule


@pytest.mark.parametrize(
    "make_rule",
    [TensorRule, pytest.param(_hierarchical, marks=pytest.mark.slow)],
)
def test_tensor_by_tensor_equals_an_outer_tape(make_rule):
    task, rule = components.shared_task("KerasTask-mlp"), make_rule()
    carry, _ = unroll(rule, task, start(rule, task, 1), 3)
    _, expected = _outer_tape(rule, task, carry, WEIGHTS)
    # In one pass, and in two.
    for memory_budget in (2**30, 1):
        estimator = TruncatedBackpropagation(memory_budget=memory_budget)
        estimate = estimator(rule, task, carry, MetaLoss(WEIGHTS), SEED)
        assert _relative_difference(estimate.gradients, expected) < 1e-5


@pytest.mark.parametrize("rule_name", ["CoordinatewiseLSTM", "Adam"])
def test_many_blocks_give_the_same_as_one(rule_name, monkeypatch):
    task = components.shared_task("KerasTask-mlp")
    rule = components.shared_rule(rule_name)
    estimator = TruncatedBackpropagation()

    def estimate():
        carry, _ = unroll(rule, task, start(rule, task, 1), 3)
        result = estimator(rule, task, carry, MetaLoss(WEIGHTS), SEED)
        return result, unpack(rule, task, result.carry.parameters)

    expected, parameters = estimate()
    assert len(expected.carry.parameters) == 1
    monkeypatch.setattr(partition, "BLOCK_SIZE", 8)
    received, parameters_in_blocks = estimate()
    assert len(received.carry.parameters) == 4
    np.testing.assert_allclose(received.losses, expected.losses, rtol=1e-5)
    assert _relative_difference(received.gradients, expected.gradients) < 1e-5
    # What the next unroll starts from.
    for one, other in zip(parameters_in_blocks, parameters, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_equals_an_outer_tape_where_the_rule_reads_parameters():
    """The derivative through θ in the rule's own input counts, too."""

    class Decay(rules.CoordinatewiseRule):
        def __init__(self):
            super().__init__()
            self.rate = self.add_weight(shape=(), initializer="ones")

        def initial_coordinate_state(self, count):
            return {}

        def update_coordinates(self, gradient, parameter, state, shared):
            rate = 0.1 * self.rate
            return -rate * (gradient + parameter**2), state, shared

    task, rule = components.shared_task("KerasTask-mlp"), Decay()
    carry = start(rule, task, 1)
    estimate = TruncatedBackpropagation()(
        rule, task, carry, MetaLoss(WEIGHTS), SEED
    )
    _, expected = _outer_tape(rule, task, carry, WEIGHTS)
    assert _relative_difference(estimate.gradients, expected) < 1e-5


@pytest.mark.parametrize("preprocessing", ["raw", "log_and_sign"])
def test_second_derivatives_against_finite_differences(preprocessing):
    task = tasks.Quadratic(dimensions=4, dtype="float64")
    rule = rules.CoordinatewiseLSTM(
        units=2,
        output_scale=1.0,
        preprocessing=preprocessing,
        dtype="float64",
        seed=1,
    )
    carry = start(rule, task, 1)
    weights = tf.cast(WEIGHTS, tf.float64)
    estimate = TruncatedBackpropagation(second_derivatives=True)(
        rule, task, carry, MetaLoss(weights), SEED
    )

    @tf.function
    def objective():
        losses = unroll(rule, task, carry, STEPS)[1].losses[1:]
        return tf.reduce_mean(weights * losses)

    step, expected = 1e-6, []
    for variable in rule.trainable_variables:
        value = variable.numpy()
        derivative = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            sides = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                variable.assign(moved)
                sides.append(float(objective()))
            derivative[index] = (sides[0] - sides[1]) / (2 * step)
        variable.assign(value)
        expected.append(derivative)
    assert _relative_difference(estimate.gradients, expected) < 1e-6
    # And they matter: the default, without them, is another gradient.
    without = TruncatedBackpropagation()(
        rule, task, carry, MetaLoss(weights), SEED
    )
    assert _relative_difference(without.gradients, expected) > 1e-4


def test_second_derivatives_through_a_keras_model():
    task, rule = components.shared_task("KerasTask-mlp"), rules.SGD(0.3)
    carry = start(rule, task, 1)
    estimate = TruncatedBackpropagation(second_derivatives=True)(
        rule, task, carry, MetaLoss(WEIGHTS), SEED
    )

    def objective(rate):
        rule.learning_rate.assign(rate)
        losses = unroll(rule, task, carry, STEPS)[1].losses[1:]
        return float(tf.reduce_mean(WEIGHTS * losses))

    expected = (objective(0.31) - objective(0.29)) / 0.02
    assert float(estimate.gradients[0]) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "clipnorm", "memory_budget"),
    [
        ("Adam", None, 2**30),
        ("Adam", None, 1),
        ("Adam", 0.1, 2**30),
        pytest.param("LearnedMuon-3", 0.1, 2**30, marks=pytest.mark.slow),
    ],
)
def test_second_derivatives_side_by_side(name, clipnorm, memory_budget):
    """Those of three optimizees are the sum of those of each."""
    (task,) = tasks.mixture(1, kinds="random-linear-clusters")
    rule = components.shared_rule(name)

    def estimates(task, starts, weights, **arguments):
        estimator = TruncatedBackpropagation(
            second_derivatives=True, clipnorm=clipnorm, **arguments
        )
        meta_loss = MetaLoss(weights, transform="log", held_out=1.0)
        estimate = tf.function(
            lambda carry: estimator(rule, task, carry, meta_loss, SEED),
            autograph=False,
        )
        return [estimate(estimator.start(rule, task, one)) for one in starts]

    alone = estimates(task, [1, 2, 3], WEIGHTS)
    (together,) = estimates(
        BatchedTask(task, 3),
        [[1, 2, 3]],
        tf.tile(WEIGHTS[:, None], [1, 3]),
        vectorize=True,
        memory_budget=memory_budget,
    )
    losses = np.stack([one.losses for one in alone], axis=1)
    np.testing.assert_allclose(together.losses, losses, rtol=1e-4)
    expected = [sum(same) for same in zip(*(one.gradients for one in alone))]
    assert _relative_difference(together.gradients, expected) < 1e-3
    if clipnorm is not None:
        for one in alone:
            assert tf.linalg.global_norm(one.gradients) < 1.001 * clipnorm
    carries = tf.nest.map_structure(
        lambda *leaves: tf.stack(leaves), *(one.carry for one in alone)
    )
    for one, two in zip(
        tf.nest.flatten(together.carry), tf.nest.flatten(carries)
    ):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_an_optimizee_that_diverged_adds_nothing_to_others():
    (task,) = tasks.mixture(1, kinds="random-linear-clusters")
    rule, batch = components.shared_rule("Adam"), BatchedTask(task, 3)
    estimator = TruncatedBackpropagation(
        second_derivatives=True, vectorize=True
    )

    def estimate(task, seeds, weights, limit):
        meta_loss = MetaLoss(weights, divergence_limit=limit)
        carry = estimator.start(rule, task, seeds)
        return estimator(rule, task, carry, meta_loss, SEED)

    weights = tf.tile(WEIGHTS[:, None], [1, 3])
    losses = estimate(batch, [1, 2, 3], weights, 1e3).losses.numpy()
    ratios = losses.max(0) / (1.0 + losses[0])
    limit = float(np.sort(ratios)[1:].mean())
    received = estimate(batch, [1, 2, 3], weights, limit)
    alone = [
        estimate(task, seed, WEIGHTS, 1e3).gradients
        for seed, ratio in zip((1, 2, 3), ratios)
        if ratio < limit
    ]
    assert len(alone) == 2
    expected = [sum(same) for same in zip(*alone)]
    assert _relative_difference(received.gradients, expected) < 1e-3


def test_the_data_of_an_episode_are_not_recorded():
    (task,) = tasks.mixture(1, kinds="random-linear-clusters")
    carry = start(rules.SGD(0.1), task, 1)
    found = second_order._constant_leaves(rules.SGD(0.1), task, carry)
    assert found[:5] == [True] * 5


def test_what_is_for_second_derivatives_alone_is_refused():
    for arguments in ({"vectorize": True}, {"clipnorm": 1.0}):
        with pytest.raises(ValueError, match="need `second_derivatives=True`"):
            TruncatedBackpropagation(**arguments)


def _python_tape_with_second_derivatives(rule, task, carry, weights):
    variables = [v.value for v in rule.trainable_variables]
    objective = 0.0
    with tf.GradientTape() as tape:
        for t, weight in enumerate([0.0, *weights.numpy()]):
            if t > 0:
                carry, _, _ = inner_step(rule, task, carry, True)
            loss, _, _ = loss_and_gradients(rule, task, carry)
            objective += weight * loss / len(weights)
    return tape.gradient(
        objective,
        variables,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


@pytest.mark.parametrize(
    ("task_name", "in_segments"),
    [
        ("KerasTask-mlp", False),
        ("KerasTask-convnet", True),
        pytest.param("KerasTask-mlp", True, marks=pytest.mark.slow),
        pytest.param("KerasTask-convnet", False, marks=pytest.mark.slow),
    ],
)
def test_second_derivatives_equal_one_tape(task_name, in_segments):
    task = components.shared_task(task_name)
    rule = components.shared_rule("CoordinatewiseLSTM")
    carry, _ = unroll(rule, task, start(rule, task, 1), 3)
    losses, gradients, last = backpropagate(
        rule,
        task,
        carry,
        MetaLoss(WEIGHTS),
        memory_budget=1 if in_segments else 2**30,
    )
    expected_last, trajectory = unroll(rule, task, carry, STEPS)
    np.testing.assert_allclose(losses, trajectory.losses, rtol=1e-5)
    for a, b in zip(tf.nest.flatten(last), tf.nest.flatten(expected_last)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    expected = _python_tape_with_second_derivatives(rule, task, carry, WEIGHTS)
    assert _relative_difference(gradients, expected) < 1e-4


@pytest.mark.slow
def test_a_share_of_the_coordinates_is_unbiased(monkeypatch):
    """The mean over many draws is the whole gradient, within its error."""
    # Four blocks, the last of which is padded.
    monkeypatch.setattr(partition, "BLOCK_SIZE", 8)
    task = components.shared_task("KerasTask-mlp")
    rule = components.shared_rule("CoordinatewiseLSTM")
    carry = start(rule, task, 1)
    whole = TruncatedBackpropagation()(
        rule, task, carry, MetaLoss(WEIGHTS), SEED
    )
    estimator = TruncatedBackpropagation(coordinate_share=0.3)

    @tf.function
    def draw(seed):
        return estimator(rule, task, carry, MetaLoss(WEIGHTS), seed).gradients

    draws = np.stack(
        [_flat(draw(tf.constant([5, index]))) for index in range(400)]
    )
    expected = _flat(whole.gradients)
    error = draws.std(0) / np.sqrt(len(draws))
    moving = error > 1e-9
    scores = (draws.mean(0) - expected)[moving] / error[moving]
    assert np.abs(scores).max() < 5
    assert draws.std(0).max() > 0
    assert np.linalg.norm(draws.mean(0) - expected) < 0.2 * np.linalg.norm(
        expected
    )


def test_the_same_seed_draws_the_same_coordinates():
    task = components.shared_task("KerasTask-mlp")
    rule = components.shared_rule("CoordinatewiseLSTM")
    carry = start(rule, task, 1)
    estimator = TruncatedBackpropagation(coordinate_share=0.3)
    first, again, other = (
        _flat(
            estimator(
                rule, task, carry, MetaLoss(WEIGHTS), tf.constant(seed)
            ).gradients
        )
        for seed in ([1, 1], [1, 1], [1, 2])
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def _carries(structure):
    """The `Carry`s within what an estimator carries."""
    if isinstance(structure, Carry):
        yield structure
    elif isinstance(structure, tuple):
        for part in structure:
            yield from _carries(part)


@pytest.mark.parametrize(
    "task_name",
    [
        "KerasTask-mlp",
        pytest.param("KerasTask-convnet", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", components.ESTIMATORS)
def test_contract_of_every_estimator(name, task_name, monkeypatch):
    task = components.shared_task(task_name)
    loss, files = task.loss, set()

    def watched_loss(*arguments):
        files.add(sys._getframe().f_code.co_filename)
        return loss(*arguments)

    monkeypatch.setattr(task, "loss", watched_loss)
    rule = components.shared_rule("CoordinatewiseLSTM")
    estimator = components.ESTIMATORS[name]()
    traces = []

    @tf.function
    def estimate(carry, weights, seed):
        traces.append(1)
        return estimator(rule, task, carry, MetaLoss(weights), seed)

    carry = estimator.start(rule, task, 1)
    for index in range(3):
        result = estimate(carry, WEIGHTS, tf.constant([0, index]))
        assert result.losses.shape == (STEPS + 1,)
        assert [g.shape for g in result.gradients] == [
            v.shape for v in rule.trainable_variables
        ]
        assert all(np.isfinite(g).all() for g in result.gradients)
        assert all(np.any(g) for g in result.gradients[-2:])
        tf.nest.assert_same_structure(carry, result.carry)
        carry = result.carry
    assert max(np.max(one.step) for one in _carries(carry)) == 3 * STEPS
    assert len(traces) == 1
    # To let autograph convert what is called would take longer than the rest.
    assert files == {__file__}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinate_share": 0.0}, r"`coordinate_share` must be in the range"),
        (
            {"coordinate_share": 0.5, "second_derivatives": True},
            "must be 1.0 with `second_derivatives=True`",
        ),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        TruncatedBackpropagation(**arguments)


@pytest.mark.parametrize("name", components.RULES)
def test_derivatives_at_zero_gradients_are_finite(name):
    """As for a model whose last layer starts at zero: norms and roots of 0."""
    rule = components.shared_rule(name)
    parameters = [tf.zeros([3, 2]), tf.zeros([2])]
    gradients = [tf.zeros_like(parameter) for parameter in parameters]
    state = rule.named_initial_state(parameters, ["a/kernel", "a/bias"])
    variables = [v.value for v in rule.trainable_variables]
    inputs = [*parameters, *floating(state)]
    objective = 0.0
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        for _ in range(3):
            updates, state = rule(gradients, parameters, state)
            parameters = [p + u for p, u in zip(parameters, updates)]
            objective += tf.add_n([tf.reduce_sum(p) for p in parameters])
    for derivative in tape.gradient(
        objective,
        [*variables, *inputs],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    ):
        assert np.isfinite(derivative).all()
