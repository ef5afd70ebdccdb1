"""The meta-gradient of a held-out loss, against one computed by hand.

A parabola whose minimum is elsewhere for training and for held-out data,
trained by gradient descent: θ' = θ - η θ from θ = 1, so θ_t = (1 - η)^t. The
training loss is θ² / 2, the held-out loss (θ - m)² / 2.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import meta_gradients, rules, tasks
from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.inner_loop.episode import start
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.meta_training.trainer import MetaTrainer

RATE, MINIMUM, STEPS = 0.2, 0.7, 3


class Parabola(tasks.Task):
    """With a model state that counts how often the training loss is seen."""

    def __init__(self):
        super().__init__("parabola")

    def initial_parameters(self, seed):
        return [tf.ones([1])], [tf.zeros([])]

    def sample_batch(self, seed):
        return tf.zeros([])

    def sample_held_out_batch(self, seed):
        return tf.constant(MINIMUM)

    def loss(self, parameters, model_state, batch):
        loss = tf.reduce_sum((parameters[0] - batch) ** 2) / 2.0
        return loss, [model_state[0] + 1.0]

    def test_loss(self, parameters, model_state):
        return float(self.loss(parameters, model_state, MINIMUM)[0])


def _expected(held_out, second_derivatives):
    """Losses, and the derivative of their mean by the learning rate.

    With second derivatives dθ_t/dη = -t (1 - η)^(t-1). Without them the
    gradients θ_s that the rule sees are constants: dθ_t/dη = -Σ_{s<t} θ_s.
    """
    t = np.arange(STEPS + 1)
    theta = (1.0 - RATE) ** t
    losses = (1 - held_out) * theta**2 + held_out * (theta - MINIMUM) ** 2
    slopes = (1 - held_out) * theta + held_out * (theta - MINIMUM)
    if second_derivatives:
        d_theta = -t * (1.0 - RATE) ** (t - 1)
    else:
        d_theta = -np.concatenate([[0.0], np.cumsum(theta[:-1])])
    return losses / 2.0, np.mean((slopes * d_theta)[1:])


def _estimate(estimator, held_out, task=None, seeds=1):
    task, rule = task or Parabola(), rules.SGD(RATE)
    count = len(seeds) if isinstance(seeds, list) else 0
    weights = tf.ones([STEPS, count] if count else [STEPS])
    return estimator(
        rule,
        task,
        estimator.start(rule, task, seeds),
        MetaLoss(weights, held_out=held_out),
        tf.constant([0, 0]),
    )


ESTIMATORS = {
    "one-pass": (meta_gradients.TruncatedBackpropagation, False),
    "two-passes": (
        lambda: meta_gradients.TruncatedBackpropagation(memory_budget=1),
        False,
    ),
    "second-derivatives": (
        lambda: meta_gradients.TruncatedBackpropagation(
            second_derivatives=True
        ),
        True,
    ),
    "segments": (
        lambda: meta_gradients.TruncatedBackpropagation(
            second_derivatives=True, memory_budget=1
        ),
        True,
    ),
    "imitation-of-none": (
        lambda: meta_gradients.Imitation(
            meta_gradients.TruncatedBackpropagation(), rules.Adam(), rate=0.0
        ),
        False,
    ),
    # With a perturbation this small, its estimate is (ε / σ)² times the
    # derivative.
    "AntitheticES": (
        lambda: meta_gradients.AntitheticES(1e-3, jit_compile=False),
        True,
    ),
    "PersistentES": (
        lambda: meta_gradients.PersistentES(1e-3, jit_compile=False),
        True,
    ),
    "PersistentES-vectorize": (
        lambda: meta_gradients.PersistentES(1e-3, vectorize=True),
        True,
    ),
}


@pytest.mark.parametrize("held_out", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_equals_what_is_computed_by_hand(name, held_out):
    make, second_derivatives = ESTIMATORS[name]
    estimator = make()
    result = _estimate(estimator, held_out)
    losses, slope = _expected(held_out, second_derivatives)
    received, tolerance = float(result.gradients[0]), 1e-5
    if "ES" in name:
        drawn = estimator._draw(rules.SGD(RATE), tf.constant([0, 0]))[0]
        slope *= (float(drawn) / 1e-3) ** 2
        tolerance = 2e-3
    assert received == pytest.approx(slope, rel=tolerance)
    np.testing.assert_allclose(result.losses, losses, atol=1e-3)


def test_optimizees_side_by_side():
    rule = rules.SGD(RATE)
    task = BatchedTask(Parabola(), 2)
    result = meta_gradients.TruncatedBackpropagation()(
        rule,
        task,
        start(rule, task, [1, 2]),
        MetaLoss(tf.ones([STEPS, 2]), held_out=1.0),
        tf.constant([0, 0]),
    )
    losses, slope = _expected(1.0, False)
    np.testing.assert_allclose(result.losses[:, 1], losses, rtol=1e-5)
    assert float(result.gradients[0]) == pytest.approx(2.0 * slope, rel=1e-5)


def test_a_taught_episode_logs_the_held_out_loss():
    teacher = rules.SGD(RATE)
    result = _estimate(
        meta_gradients.Imitation(
            meta_gradients.PersistentES(jit_compile=False), teacher, rate=1.0
        ),
        1.0,
    )
    np.testing.assert_allclose(
        result.losses, _expected(1.0, False)[0], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["one-pass", "PersistentES"])
def test_the_model_state_does_not_see_held_out_data(name):
    carry = _estimate(ESTIMATORS[name][0](), 1.0).carry
    one = carry.carries[0] if name == "PersistentES" else carry
    assert float(one.model_state[0]) == STEPS


def _trainer(meta_loss, task=None):
    trainer = MetaTrainer(
        rules.SGD(0.01),
        task or Parabola(),
        horizon=20,
        unroll=20,
        meta_loss=meta_loss,
        estimator=meta_gradients.TruncatedBackpropagation(
            second_derivatives=True
        ),
    )
    trainer.compile(keras.optimizers.Adam(0.01))
    return trainer


def test_a_rule_learns_to_stop_at_the_held_out_minimum():
    """θ_20 of the training loss is 0, that of the held-out loss 0.7."""
    ends = {}
    for meta_loss in ("training", "held_out"):
        trainer = _trainer(meta_loss)
        trainer.fit(epochs=1, steps_per_epoch=60, verbose=0)
        ends[meta_loss] = (1.0 - float(trainer.rule.learning_rate)) ** 20
    assert ends["training"] < 0.01
    assert ends["held_out"] > 0.3


def test_validation_chooses_by_the_loss_that_is_asked_for():
    trainer = _trainer("training")
    held_out = trainer.evaluate(Parabola(), 2, loss="held_out")
    assert held_out == pytest.approx(trainer.evaluate(Parabola(), 2, loss=1.0))
    history = trainer.fit(
        epochs=30,
        steps_per_epoch=2,
        validation_task=Parabola(),
        validation_episodes=2,
        validation_loss="held_out",
        verbose=0,
    ).history
    assert min(history["val_loss"]) < held_out
    assert min(history["val_loss"]) < history["val_loss"][-1]
    assert trainer.evaluate(Parabola(), 2, loss="held_out") == pytest.approx(
        min(history["val_loss"]), rel=1e-5
    )
    assert history["val_loss_standard_error"] == [0.0] * 30


@pytest.mark.parametrize("meta_loss", ["test", True, -0.1, 1.5, None])
def test_other_losses_are_refused(meta_loss):
    with pytest.raises(ValueError, match="`meta_loss` must be"):
        _trainer(meta_loss)
    with pytest.raises(ValueError, match="`validation_loss` must be"):
        _trainer("training").fit(validation_loss=meta_loss or "none")


def test_a_task_without_held_out_data_is_refused():
    task = tasks.digits_mlp(units=2)
    with pytest.raises(ValueError, match="has no held-out data"):
        _trainer("held_out", task)
    trainer = _trainer("training", task)
    with pytest.raises(ValueError, match="`validation_data=…`"):
        trainer.evaluate(task, 1, loss="held_out")
    with pytest.raises(ValueError, match="has no held-out data"):
        trainer.fit(validation_task=task, validation_loss="held_out")
