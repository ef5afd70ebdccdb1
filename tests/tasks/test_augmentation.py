"""What an augmentation changes of a task, and what it leaves as it is."""

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import tasks
from tests import components


def _task():
    return components.TASKS["KerasTask-mlp"]()


def _first_step(task, seed=3, step=0):
    """Parameters, model state, loss and gradients at the start."""
    parameters, state = task.initial_parameters(seed)
    batch = task.sample_batch(tf.constant([seed, step]))
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        loss, _ = task.loss(parameters, state, batch)
    return parameters, state, loss, tape.gradient(loss, parameters)


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (tasks.RandomScaling, np.exp(3)),
        (tasks.Reparametrization, 1e3),
        (lambda task: tasks.Reparametrization(task, level="model"), 1e3),
    ],
    ids=["coordinates", "tensors", "model"],
)
def test_the_same_problem_in_other_coordinates(make, bound):
    task = _task()
    parameters, _, loss, gradients = _first_step(task)
    augmented = make(task)
    scaled, state, scaled_loss, scaled_gradients = _first_step(augmented)
    np.testing.assert_allclose(scaled_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(
        augmented.test_loss(scaled, state),
        task.test_loss(parameters, []),
        rtol=1e-5,
    )
    for scale, w, x, g, h in zip(
        state, parameters, scaled, gradients, scaled_gradients
    ):
        assert 1 / bound <= np.min(scale) <= np.max(scale) <= bound
        np.testing.assert_allclose(x * scale, w, rtol=1e-5)
        np.testing.assert_allclose(h, g * scale, rtol=1e-3, atol=1e-6)


def test_how_many_scales_an_episode_has():
    def scales(task, seed=3):
        _, state = task.initial_parameters(seed)
        return np.concatenate([np.ravel(s) for s in state])

    task = _task()
    size = sum(spec.shape.num_elements() for spec in task.parameter_specs)
    for augmented, expected in (
        (tasks.RandomScaling(task), size),
        (tasks.Reparametrization(task), len(task.parameter_specs)),
        (tasks.Reparametrization(task, level="model"), 1),
        # Each of those within one another draws its own.
        (tasks.RandomScaling(tasks.RandomScaling(task)), 2 * size),
    ):
        found = scales(augmented)
        assert len(np.unique(found)) == expected
        assert not np.intersect1d(found, scales(augmented, seed=4)).size


def test_noise_is_in_the_gradients_alone():
    task = tasks.Quadratic(dimensions=40, functions=50)
    noisy = tasks.GradientNoise(task, low=0.2, high=0.4)
    _, _, loss, (gradient,) = _first_step(task)
    parameters, state, noisy_loss, (received,) = _first_step(noisy)
    np.testing.assert_array_equal(noisy_loss, loss)
    assert noisy.test_loss(parameters, state) == pytest.approx(float(loss))
    noise = np.array(received - gradient)
    share = noise.std() / np.sqrt(np.mean(np.square(gradient)))
    assert 0.19 < share < 0.41
    assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(noise.size)
    # Other noise at each step, and of another size in each episode.
    *_, (later,) = _first_step(noisy, step=1)
    correlation = np.corrcoef(noise.ravel(), np.ravel(later - gradient))[0, 1]
    assert abs(correlation) < 0.1
    assert not np.array_equal(state[0], noisy.initial_parameters(4)[1][0])


def test_a_batch_has_as_many_different_examples_as_drawn():
    seen = {}

    class Spy(tasks.Quadratic):
        def sample_batch(self, seed):
            return {"x": tf.range(16), "y": tf.random.normal([16, 2])}

        def loss(self, parameters, model_state, batch):
            seen.update(batch)
            return super().loss(parameters, model_state, ())

    task = tasks.RandomBatchSize(Spy(), low=2)
    counts = set()
    for seed in range(20):
        _, (count, *_), _, _ = _first_step(task, seed)
        assert set(seen["x"].numpy()) == set(range(count))
        assert len(np.unique(seen["y"], axis=0)) == count
        assert seen["y"].shape == (16, 2)
        counts.add(int(count))
    assert len(counts) > 5
    assert min(counts) >= 2
    assert max(counts) <= 16


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tasks.RandomScaling(3), TypeError, "`task` must be a"),
        (
            lambda: tasks.RandomScaling(_task(), spread=0.0),
            ValueError,
            "`spread` must be a positive",
        ),
        (
            lambda: tasks.Reparametrization(_task(), low=2.0, high=1.0),
            ValueError,
            "`high` must be a number not below `low`",
        ),
        (
            lambda: tasks.Reparametrization(_task(), level="layer"),
            ValueError,
            "`level` must be",
        ),
        (
            lambda: tasks.RandomBatchSize(_task(), low=9),
            ValueError,
            "`low` must not exceed the examples in a batch, 8",
        ),
        (
            lambda: tasks.RandomBatchSize(tasks.Quadratic()),
            ValueError,
            "common first axis",
        ),
        (
            lambda: tasks.RandomBatchSize(
                tasks.RandomScaling(tasks.GradientNoise(_task()))
            ),
            ValueError,
            "hold no `GradientNoise`",
        ),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()
