"""Estimators that perturb the meta-parameters."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import rules, tasks
from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.meta_gradients.evolution_strategies import (
    AntitheticES,
    PersistentES,
)
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.meta_training.trainer import MetaTrainer
from tests import components

DRAWS = 400
UNROLL, UNROLLS = 4, 3


def _task_and_rule():
    # One meta-parameter, and a loss that is smooth in it.
    return tasks.Quadratic(dimensions=3), rules.SGD(0.02)


def _estimates(estimator, task, rule, unrolls):
    """`[DRAWS, unrolls]`: the estimates of whole episodes, many draws."""
    meta_loss = MetaLoss(tf.ones(UNROLL))

    @tf.function
    def estimate(carry, seed):
        return estimator(rule, task, carry, meta_loss, seed)

    rows = []
    for draw in range(DRAWS):
        carry, row = estimator.start(rule, task, 5), []
        for index in range(unrolls):
            result = estimate(carry, tf.constant([draw, index]))
            carry = result.carry
            row.append(float(result.gradients[0]))
        rows.append(row)
    return np.array(rows)


def _slopes(task, rule, unrolls):
    """`[unrolls]`: derivatives by φ of each unroll's loss, by differences."""
    from keras_l2l.inner_loop.episode import start
    from keras_l2l.inner_loop.unroll import unroll

    columns = []
    for shift in (-1e-3, 1e-3):
        rule.learning_rate.assign_add(shift)
        carry, losses = start(rule, task, 5), []
        for _ in range(unrolls):
            carry, trajectory = unroll(rule, task, carry, UNROLL)
            losses.append(float(tf.reduce_mean(trajectory.losses[1:])))
        rule.learning_rate.assign_sub(shift)
        columns.append(losses)
    return np.subtract(columns[1], columns[0]) / 2e-3


def test_persistent_es_is_unbiased_over_whole_episodes():
    task, rule = _task_and_rule()
    estimator = PersistentES(1e-3, jit_compile=False)
    estimates = _estimates(estimator, task, rule, UNROLLS).sum(1)
    error = estimates.std(ddof=1) / np.sqrt(DRAWS)
    expected = _slopes(task, rule, UNROLLS).sum()
    assert abs(estimates.mean() - expected) < 4 * error
    assert error < 0.1 * abs(expected)


def test_antithetic_es_sees_one_unroll():
    task, rule = _task_and_rule()
    estimator = AntitheticES(1e-3, jit_compile=False)
    estimates = _estimates(estimator, task, rule, 1)[:, 0]
    error = estimates.std(ddof=1) / np.sqrt(DRAWS)
    expected = _slopes(task, rule, 1)[0]
    assert abs(estimates.mean() - expected) < 4 * error
    assert error < 0.1 * abs(expected)


def test_no_two_perturbations_share_a_number():
    """Of any variables, in any groups of an outer step, in any steps."""
    rule = rules.RNNprop(units=2)  # with variables of the same shape
    seeds = [[step, group] for step in range(3) for group in range(3)]
    numbers = np.concatenate(
        [
            np.ravel(perturbation)
            for seed in seeds
            for perturbation in PersistentES()._draw(rule, tf.constant(seed))
        ]
    )
    assert len(np.unique(numbers)) == len(numbers)


def test_xla_gives_the_same_estimate():
    task, rule = _task_and_rule()
    gradients = []
    for jit_compile in (False, True):
        estimator = PersistentES(0.01, jit_compile=jit_compile)
        result = estimator(
            rule,
            task,
            estimator.start(rule, task, 1),
            MetaLoss(tf.ones(UNROLL)),
            tf.constant([0, 1]),
        )
        gradients.append(float(result.gradients[0]))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AntitheticES, PersistentES])
def test_particles_side_by_side_are_those_alone(kind):
    """Two unrolls of three optimizees, whose estimates add up."""
    task = components.TASKS["KerasTask-convnet"]()
    rule = components.RULES["LearnedMuon-2"]()
    together = kind(vectorize=True, jit_compile=False)
    alone = kind(jit_compile=False)
    seeds = [3, 4, 5]
    batch = BatchedTask(task, 3)
    carry = together.start(rule, batch, seeds)
    carries = [alone.start(rule, task, seed) for seed in seeds]
    for step in range(2):
        draws = tf.constant([[step, index] for index in range(3)])
        result = together(
            rule, batch, carry, MetaLoss(tf.ones([UNROLL, 3])), draws
        )
        total = [tf.zeros_like(v) for v in rule.trainable_variables]
        for index in range(3):
            one = alone(
                rule,
                task,
                carries[index],
                MetaLoss(tf.ones(UNROLL)),
                draws[index],
            )
            carries[index] = one.carry
            total = [a + b for a, b in zip(total, one.gradients)]
            np.testing.assert_allclose(
                result.losses[:, index], one.losses, rtol=1e-4
            )
        carry = result.carry
        scale = np.max([np.abs(g).max() for g in total])
        for ours, theirs in zip(result.gradients, total):
            np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-3)


@pytest.mark.parametrize("kind", [AntitheticES, PersistentES])
def test_only_the_chosen_meta_parameters_are_trained(kind):
    task = tasks.Quadratic(dimensions=3)
    rule = components.RULES["LearnedMuon-2"]()
    gradients = []
    for names in (None, ["tensor_output_bias"]):
        estimator = kind(0.01, jit_compile=False, meta_parameters=names)
        estimate = estimator(
            rule,
            task,
            estimator.start(rule, task, 1),
            MetaLoss(tf.ones(UNROLL)),
            tf.constant([0, 1]),
        )
        gradients.append(estimate.gradients)
    for variable, every, some in zip(rule.trainable_variables, *gradients):
        assert np.abs(every).max() > 0.0
        is_chosen = variable.name == "tensor_output_bias"
        assert (np.abs(some).max() > 0.0) == is_chosen
    estimator = kind(meta_parameters=["rate"])
    with pytest.raises(ValueError, match=r"`meta_parameters`.*'rate'"):
        estimator._draw(rule, tf.constant([0, 1]))


def test_a_particle_that_diverges_is_bounded_and_pushes_back():
    task = tasks.Quadratic(dimensions=3)
    rule = rules.SGD(1.0)  # far too fast: both particles explode
    estimator = PersistentES(0.5, jit_compile=False)
    meta_loss = MetaLoss(tf.ones(60), transform="log", divergence_limit=1e3)
    result = estimator(
        rule,
        task,
        estimator.start(rule, task, 1),
        meta_loss,
        tf.constant([0, 3]),
    )
    assert bool(meta_loss.has_diverged(result.losses))
    assert np.isfinite(result.gradients[0])


@pytest.mark.parametrize(
    "vectorize", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_learns_and_resumes(tmp_path, vectorize):
    def trainer():
        made = MetaTrainer(
            rules.SGD(1e-3),
            [tasks.Quadratic(dimensions=3), tasks.Quadratic(dimensions=2)],
            horizon=(4, 12),
            unroll=4,
            optimizees=2,
            tasks_per_step=1,
            loss_transform="log",
            estimator=PersistentES(
                1e-3, jit_compile=False, vectorize=vectorize
            ),
        )
        made.compile(keras.optimizers.Adam(1e-3))
        return made

    whole = trainer()
    history = whole.fit(epochs=4, steps_per_epoch=5, verbose=0).history
    assert float(whole.rule.learning_rate) > 5e-3
    assert np.isfinite(history["loss"]).all()
    trainer().fit(epochs=2, steps_per_epoch=5, verbose=0, backup_dir=tmp_path)
    resumed = trainer()
    resumed.fit(epochs=4, steps_per_epoch=5, verbose=0, backup_dir=tmp_path)
    np.testing.assert_array_equal(
        resumed.rule.learning_rate, whole.rule.learning_rate
    )
