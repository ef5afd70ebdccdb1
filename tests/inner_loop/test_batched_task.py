"""Several optimizees at once learn what each learns alone."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import rules, tasks
from keras_l2l.execution import partition
from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.inner_loop.episode import start, unpack
from keras_l2l.inner_loop.unroll import compile_unroll, unroll
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.meta_gradients.recorded_steps import recorded_bytes
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from tests import components

SEEDS = [3, 1, 8]
STEPS = 4
WEIGHTS = tf.constant(
    np.random.default_rng(0).uniform(0.5, 1.5, (STEPS, len(SEEDS))), tf.float32
)
SEED = tf.constant([0, 0])


def _rule():
    return components.shared_rule("CoordinatewiseLSTM")


def _run(function, *arguments):
    return tf.function(function, autograph=False)(*arguments)


# The others are multilayer perceptrons, too.
@pytest.mark.parametrize(
    "name",
    [
        "Quadratic-many",
        "KerasTask-mlp",
        pytest.param("KerasTask-convnet", marks=pytest.mark.slow),
        pytest.param("KerasTask-recurrent", marks=pytest.mark.slow),
        "KerasTask-two-by-two",
        "NeuralStyle",
        "GradientNoise-of-augmented",
    ],
)
def test_each_optimizee_trains_as_alone(name):
    task, rule = components.shared_task(name), _rule()
    together = BatchedTask(task, len(SEEDS))
    with warnings.catch_warnings():
        # Every kind of model that is tested here is vectorised.
        warnings.simplefilter("error", UserWarning)
        carry, trajectory = compile_unroll(rule, together)(
            start(rule, together, SEEDS), STEPS
        )
    parameters = unpack(rule, together, carry.parameters)
    run_alone = compile_unroll(rule, task)
    for index, seed in enumerate(SEEDS):
        alone, expected = run_alone(start(rule, task, seed), STEPS)
        np.testing.assert_allclose(
            trajectory.losses[:, index], expected.losses, rtol=1e-4
        )
        for ours, theirs in zip(
            [p[index] for p in [*parameters, *carry.model_state]],
            [*unpack(rule, task, alone.parameters), *alone.model_state],
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


class _MetaLossOfSome(MetaLoss):
    """As if those that are not kept had diverged."""

    def __init__(self, weights, kept):
        super().__init__(weights)
        self._kept = kept

    def has_diverged(self, losses):
        return ~tf.constant(self._kept)


def _one_by_one(task, rule, estimator, kept):
    total = None
    for index, seed in enumerate(SEEDS):
        if kept[index]:
            estimate = estimator(
                rule,
                task,
                start(rule, task, seed),
                MetaLoss(WEIGHTS[:, index]),
                SEED,
            )
            parts = estimate.gradients
            total = (
                parts
                if total is None
                else [a + b for a, b in zip(total, parts)]
            )
    return np.concatenate([np.ravel(g) for g in total])


KEPT = [True, False, True]


@pytest.fixture(scope="module")
def one_by_one():
    """The meta-gradient of those that contribute, each on its own."""
    task = components.shared_task("KerasTask-mlp")
    return _one_by_one(task, _rule(), TruncatedBackpropagation(), KEPT)


# In one pass; in two; in slices that end within an optimizee; in blocks.
@pytest.mark.parametrize(
    "case",
    [
        "record",
        pytest.param("blocks", marks=pytest.mark.slow),
        pytest.param("slices", marks=pytest.mark.slow),
        pytest.param("repeat", marks=pytest.mark.slow),
    ],
)
def test_the_meta_gradient_is_the_sum_of_those_that_contribute(
    case, one_by_one, monkeypatch
):
    if case != "record":
        monkeypatch.setattr(partition, "BLOCK_SIZE", 32)
    task, rule = components.shared_task("KerasTask-mlp"), _rule()
    together = BatchedTask(task, len(SEEDS))
    estimator = TruncatedBackpropagation(
        memory_budget=17 * recorded_bytes(rule, STEPS)
        if case == "slices"
        else 2**30,
        coordinate_share=1.0 if case != "repeat" else 1.0 - 1e-9,
    )
    estimate = _run(
        lambda c: estimator(
            rule,
            together,
            c,
            _MetaLossOfSome(WEIGHTS, KEPT),
            tf.stack([SEED] * len(SEEDS)),
        ),
        start(rule, together, SEEDS),
    )
    received = np.concatenate([np.ravel(g) for g in estimate.gradients])
    difference = np.linalg.norm(received - one_by_one)
    assert difference < 1e-4 * np.linalg.norm(one_by_one)


def test_one_that_is_lost_spoils_none_of_the_others():
    class Lost(tasks.Quadratic):
        """The optimizee of seed 1 has no number for a loss."""

        def initial_parameters(self, seed):
            (theta,), state = super().initial_parameters(seed)
            return [theta], [*state, tf.constant(seed == 1)]

        def loss(self, parameters, model_state, batch):
            *state, is_lost = model_state
            loss, _ = super().loss(parameters, state, batch)
            return tf.where(is_lost, np.nan, 1.0) * loss, model_state

    rule, task = _rule(), Lost(3)
    together = BatchedTask(task, len(SEEDS))
    estimate = _run(
        lambda c: TruncatedBackpropagation()(
            rule,
            together,
            c,
            MetaLoss(WEIGHTS),
            SEED,
        ),
        start(rule, together, SEEDS),
    )
    received = np.concatenate([np.ravel(g) for g in estimate.gradients])
    expected = _one_by_one(task, rule, TruncatedBackpropagation(), KEPT)
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-6)


def test_what_cannot_be_vectorised_runs_one_by_one(monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no converter for this operation")

    monkeypatch.setattr(tf, "vectorized_map", refuse)
    task, rule = components.shared_task("KerasTask-mlp"), _rule()
    together = BatchedTask(task, len(SEEDS))
    with pytest.warns(UserWarning, match="cannot vectorise"):
        _, trajectory = _run(
            lambda c: unroll(rule, together, c, STEPS),
            start(rule, together, SEEDS),
        )
    for index, seed in enumerate(SEEDS):
        _, expected = unroll(rule, task, start(rule, task, seed), STEPS)
        np.testing.assert_allclose(
            trajectory.losses[:, index], expected.losses, rtol=1e-4
        )


def test_fewer_optimizees_have_the_same_blocks(monkeypatch):
    """So that one of many can be replaced by a fresh one."""
    monkeypatch.setattr(partition, "BLOCK_SIZE", 32)
    task, rule = components.shared_task("KerasTask-mlp"), _rule()
    together = start(rule, BatchedTask(task, len(SEEDS)), SEEDS)
    alone = start(rule, BatchedTask(task, 1, len(SEEDS)), SEEDS[1:2])
    assert len(together.parameters) > 1
    for block, one in zip(together.parameters, alone.parameters, strict=True):
        np.testing.assert_array_equal(
            np.reshape(block, [len(SEEDS), -1])[1], one
        )


def test_capacity_is_what_fits_the_budget():
    task, rule = components.shared_task("KerasTask-mlp"), _rule()
    size = sum(s.shape.num_elements() for s in task.parameter_specs)

    def capacity(rule, budget, **arguments):
        estimator = TruncatedBackpropagation(memory_budget=budget, **arguments)
        return estimator.capacity(rule, task, STEPS)

    one = size * recorded_bytes(rule, STEPS)
    assert [capacity(rule, n) for n in (1, one, 5 * one)] == [1, 1, 5]
    assert capacity(rule, 5 * one, second_derivatives=True) == 1


@pytest.mark.parametrize("name", ["Adam", "CoordinatewiseLSTM-averaging"])
def test_rules_that_would_mix_optimizees_train_them_one_by_one(name):
    """They would share a step count, or average over all optimizees."""
    task = components.shared_task("Quadratic")
    rule = components.shared_rule(name)
    assert TruncatedBackpropagation().capacity(rule, task, STEPS) == 1
    with pytest.raises(ValueError, match="one whose coordinates are indep"):
        start(rule, BatchedTask(task, len(SEEDS)), SEEDS)


def test_the_dtype_of_the_model_may_be_any():
    keras.config.set_dtype_policy("float32")
    task = tasks.Quadratic(dimensions=3, dtype="float64")
    rule = rules.CoordinatewiseLSTM(units=2, dtype="float64", seed=0)
    together = BatchedTask(task, 2)
    _, trajectory = unroll(rule, together, start(rule, together, [1, 2]), 2)
    assert trajectory.losses.dtype == tf.float64
