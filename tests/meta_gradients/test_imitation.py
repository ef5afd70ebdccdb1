"""A rule that learns from another one's updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.inner_loop.episode import unpack
from keras_l2l.inner_loop.unroll import loss_and_gradients
from keras_l2l.meta_gradients.evolution_strategies import AntitheticES
from keras_l2l.meta_gradients.imitation import Imitation
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from tests import components

STEPS = 4
META_LOSS = MetaLoss(tf.ones(STEPS))
SEED = tf.constant([0, 0])


def _flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


class OfTensors(rules.UpdateRule):
    """Sees tensors, where the teacher sees a vector of all coordinates."""

    def __init__(self):
        super().__init__()
        self.rate = self.add_weight(shape=(), initializer="ones")

    def initial_state(self, parameters):
        return rules.RuleState([p * 0.0 for p in parameters], {})

    def call(self, gradients, parameters, state):
        local = [
            0.9 * s + self.rate * g for s, g in zip(state.local, gradients)
        ]
        norms = [keras.ops.norm(s) + 0.1 for s in local]
        updates = [-0.1 * s / norm for s, norm in zip(local, norms)]
        return updates, rules.RuleState(local, {})


@pytest.mark.parametrize(
    "make_rule", [components.RULES["CoordinatewiseLSTM"], OfTensors]
)
def test_the_gradient_is_that_of_the_distance(make_rule):
    task, rule = components.shared_task("KerasTask-mlp"), make_rule()
    teacher = rules.Adam(0.01)
    estimator = Imitation(TruncatedBackpropagation(), teacher, rate=1.0)
    # Not the first unroll: all states are in motion.
    lesson = estimator.start(rule, task, 1)
    lesson = estimator(rule, task, lesson, META_LOSS, SEED).carry
    received = estimator(rule, task, lesson, META_LOSS, SEED)

    carry, losses, distance, size = lesson.teacher_carry, [], 0.0, 0.0
    state = lesson.learner_state
    with tf.GradientTape() as tape:
        for _ in range(STEPS):
            loss, gradients, _ = loss_and_gradients(teacher, task, carry)
            targets, teacher_state = teacher(
                gradients, carry.parameters, carry.rule_state
            )
            seen = [
                unpack(teacher, task, tensors)
                for tensors in (gradients, carry.parameters)
            ]
            updates, state = rule(*seen, state)
            gap = tf.concat([tf.reshape(u, [-1]) for u in updates], 0)
            distance += tf.reduce_sum((gap - targets[0]) ** 2)
            size += tf.reduce_sum(targets[0] ** 2)
            carry = carry._replace(
                parameters=[carry.parameters[0] + targets[0]],
                rule_state=teacher_state,
                step=carry.step + 1,
            )
            losses.append(loss)
        distance /= size
    expected = tape.gradient(distance, rule.trainable_variables)
    np.testing.assert_allclose(received.losses[:-1], losses, rtol=1e-5)
    difference = _flat(received.gradients) - _flat(expected)
    assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(_flat(expected))


def test_imitation_alone_makes_a_rule_like_its_teacher():
    trainer = MetaTrainer(
        rules.SGD(0.01),
        tasks.Quadratic(dimensions=3),
        horizon=8,
        unroll=4,
        estimator=Imitation(
            TruncatedBackpropagation(), rules.SGD(0.1), rate=1.0
        ),
    )
    # The distance is (φ/0.1 - 1)²: such a step takes half of φ - 0.1.
    trainer.compile(keras.optimizers.SGD(0.0025))
    for left in (0.045, 0.0225, 0.01125):
        trainer.fit(steps_per_epoch=1, verbose=0)
        rate = float(trainer.rule.learning_rate)
        assert rate == pytest.approx(0.1 - left, rel=1e-4)


def test_the_rate_is_the_share_of_the_episodes():
    task, rule = tasks.Quadratic(dimensions=2), rules.SGD()
    estimator = Imitation(TruncatedBackpropagation(), rules.Adam(), rate=0.3)
    taught = [
        bool(estimator.start(rule, task, seed).is_taught) for seed in range(100)
    ]
    assert 0.15 < np.mean(taught) < 0.45
    assert taught[:9] == [
        bool(estimator.start(rule, task, seed).is_taught) for seed in range(9)
    ]


def test_the_other_episodes_are_those_of_the_other_estimator():
    task, rule = tasks.Quadratic(dimensions=3), rules.SGD(0.02)
    other = TruncatedBackpropagation()
    estimator = Imitation(other, rules.Adam(), rate=0.0)
    lesson = estimator.start(rule, task, 1)
    received = estimator(rule, task, lesson, META_LOSS, SEED)
    expected = other(rule, task, other.start(rule, task, 1), META_LOSS, SEED)
    np.testing.assert_array_equal(received.losses, expected.losses)
    np.testing.assert_array_equal(received.gradients[0], expected.gradients[0])
    tf.nest.map_structure(
        np.testing.assert_array_equal,
        received.carry.learner_carry,
        expected.carry,
    )
    assert int(received.carry.teacher_carry.step) == 0


def _trainer(rate=0.5, teacher=0.1, **arguments):
    trainer = MetaTrainer(
        rules.SGD(0.01),
        tasks.Quadratic(dimensions=3),
        horizon=40,
        unroll=4,
        optimizees=2,
        estimator=Imitation(
            AntitheticES(jit_compile=False), rules.Adam(teacher), rate=rate
        ),
        seed=1,
    )
    trainer.compile(keras.optimizers.Adam(1e-3))
    trainer.fit(steps_per_epoch=2, verbose=0, **arguments)
    return trainer


@pytest.mark.slow
def test_resume_where_both_kinds_of_episodes_are(tmp_path):
    whole = _trainer(epochs=4)
    batches = whole._pool.batches
    assert {bool(batch.carry.is_taught) for batch in batches} == {True, False}
    _trainer(epochs=1, backup_dir=tmp_path)
    resumed = _trainer(epochs=4, backup_dir=tmp_path)
    assert float(resumed.rule.learning_rate) == float(whole.rule.learning_rate)
    for changed in ({"rate": 0.4}, {"teacher": 0.2}):
        with pytest.raises(ValueError, match="must hold a backup of this run"):
            _trainer(epochs=4, backup_dir=tmp_path, **changed)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"estimator": 3}, TypeError),
        ({"teacher": "adam"}, TypeError),
        ({"rate": 1.1}, ValueError),
    ],
    ids=["estimator", "teacher", "rate"],
)
def test_refuses(arguments, error):
    (name,) = arguments
    good = {
        "estimator": TruncatedBackpropagation(),
        "teacher": rules.Adam(),
        "rate": 0.1,
    }
    with pytest.raises(error, match=f"`{name}` must be"):
        Imitation(**{**good, **arguments})
