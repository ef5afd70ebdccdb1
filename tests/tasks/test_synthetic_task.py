"""Data that each episode draws anew, and the kinds of the mixture of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import tasks
from keras_l2l.tasks import synthetic_data
from keras_l2l.tasks.synthetic_kinds import (
    CLUSTER_KINDS,
    LARGE_KINDS,
    SYNTHETIC_KINDS,
)
from tests import components


def _build_model():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])


def _ones_and_twos(generator):
    """Training data of one value, held-out data of another one."""
    count = int(generator.integers(2, 5))
    train, held_out = np.ones((count, 1)), np.full((3, 1), 2.0)
    return (train, 0.0 * train), (held_out, 0.0 * held_out)


def test_padding_is_no_example_and_held_out_data_are_others():
    task = tasks.SyntheticTask(_build_model, _ones_and_twos, "mse", 9)
    parameters, state = task.initial_parameters(2)
    count = int(state[0])
    assert 2 <= count < 5
    assert state[1].shape == (9, 1)
    kernel = float(parameters[0][0, 0])
    for step in range(5):
        loss, _ = task.loss(parameters, state, task.sample_batch([2, step]))
        assert float(loss) == pytest.approx(kernel**2, rel=1e-5)
    held_out = task.held_out_loss(
        parameters, state, task.sample_held_out_batch([2, 0])
    )
    assert float(held_out) == pytest.approx(4.0 * kernel**2, rel=1e-5)
    assert task.test_loss(parameters, state) == pytest.approx(float(held_out))


def test_each_episode_has_its_own_data():
    task = components.TASKS["SyntheticTask"]()
    (_, one), (_, other) = map(task.initial_parameters, (1, 2))
    assert not np.array_equal(one[1], other[1])


def test_episodes_share_initializations_but_no_data():
    task = tasks.SyntheticTask(
        _build_model, _ones_and_twos, "mse", 9, initializations=2
    )
    kernels, counts = [], []
    for seed in range(6):
        parameters, state = task.initial_parameters(seed)
        kernels.append(float(parameters[0][0, 0]))
        counts.append(int(state[0]))
    assert kernels == kernels[:2] * 3
    assert kernels[0] != kernels[1]
    assert len(set(counts[::2])) > 1


def test_too_many_examples_are_refused():
    with pytest.raises(ValueError, match="from 1 to `max_examples`"):
        tasks.SyntheticTask(_build_model, _ones_and_twos, "mse", 1)


@pytest.mark.parametrize(
    "kind", [*SYNTHETIC_KINDS, *CLUSTER_KINDS, *LARGE_KINDS]
)
def test_kinds_of_the_mixture(kind):
    (task,) = tasks.mixture(1, seed=5, kinds=kind)
    assert task.name == f"mixture-0-{kind}"
    parameters, state = task.initial_parameters(1)
    loss, _ = task.loss(parameters, state, task.sample_batch([1, 2]))
    assert np.isfinite(loss)
    held_out = task.held_out_loss(
        parameters, state, task.sample_held_out_batch([1, 2])
    )
    assert held_out.shape == ()
    assert np.isfinite(held_out)
    if "large" in kind:
        assert int(state[0]) == 20_000
    else:
        assert 100 <= int(state[0]) <= 2000
    if "linear" in kind:
        assert len(parameters) == 2


def test_the_synthetic_mixture_has_all_kinds():
    made = tasks.mixture(len(SYNTHETIC_KINDS), kinds="synthetic")
    assert [task.name.split("-", 2)[2] for task in made] == list(
        SYNTHETIC_KINDS
    )


def test_tables_are_raw_or_standardized():
    spans = []
    for seed in range(40):
        data = synthetic_data.labelled_table(np.random.default_rng(seed), 8, 3)
        inputs, labels = data.train
        assert np.isfinite(inputs).all()
        assert set(labels) <= {0, 1, 2}
        deviations = inputs.std(0)
        spans.append(deviations.max() / max(deviations.min(), 1e-9))
    assert np.sum(np.array(spans) < 5.0) > 10  # standardised
    assert np.sum(np.array(spans) > 1e3) > 3  # decades apart


def test_clusters_are_far_apart():
    """A linear model on standardised columns gets most of the rows right."""
    rights = []
    for seed in range(20):
        data = synthetic_data.clustered_table(
            np.random.default_rng(seed), 16, 2
        )
        (x, y), (held_out_x, held_out_y) = data
        mean, deviation = x.mean(0), x.std(0) + 1e-9
        x, held_out_x = ((a - mean) / deviation for a in (x, held_out_x))
        x, held_out_x = (
            np.concatenate([a, np.ones((len(a), 1))], 1)
            for a in (x, held_out_x)
        )
        weights, *_ = np.linalg.lstsq(x, np.eye(2)[y], rcond=None)
        rights.append(np.mean((held_out_x @ weights).argmax(1) == held_out_y))
    assert np.mean(np.array(rights) > 0.95) > 0.3
    assert np.mean(rights) > 0.8


def test_a_smooth_function_has_hardly_any_noise():
    """Near points have near values."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        (x, y), _ = synthetic_data.smooth_function(generator, 1)
        order = np.argsort(x[:, 0])
        steps = np.diff(y[order, 0])
        assert np.median(np.abs(steps)) < 0.15
        assert np.std(y) == pytest.approx(1.0, abs=0.1)


def test_flat_directions_matter_as_steep_ones_do():
    """A fit along the steepest half of the directions leaves much."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        (x, y), _ = synthetic_data.ill_conditioned_table(generator, 16)
        _, sizes, directions = np.linalg.svd(x, full_matrices=False)
        assert sizes[0] / sizes[-1] > 8.0
        residuals = []
        for count in (8, 16):
            scores = x @ directions[:count].T
            weights, *_ = np.linalg.lstsq(scores, y, rcond=None)
            residuals.append(np.mean((y - scores @ weights) ** 2))
        assert residuals[0] > 2.0 * residuals[1]


def test_targets_in_units_of_their_own():
    sizes = [
        np.abs(
            synthetic_data.measured_table(
                np.random.default_rng(seed), 4, 1
            ).train[1]
        ).max()
        for seed in range(40)
    ]
    assert max(sizes) > 100.0
    assert np.median(sizes) > 1.0


def test_a_text_continues():
    inputs, targets = synthetic_data.text(np.random.default_rng(0), 16, 8).train
    assert inputs.shape[1] == targets.shape[1] == 8
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])


def test_classes_can_be_told_apart():
    """By the mean image of each class."""
    (images, labels), (others, expected) = synthetic_data.labelled_images(
        np.random.default_rng(3), 8, 1, 3
    )
    means = np.stack([images[labels == k].mean(0) for k in range(3)])
    distances = ((others[:, None] - means) ** 2).sum((2, 3, 4))
    assert np.mean(distances.argmin(1) == expected) > 0.5


def test_gradient_noise_and_batches_of_it():
    task = tasks.GradientNoise(
        tasks.RandomBatchSize(components.TASKS["SyntheticTask"](), 2)
    )
    parameters, state = task.initial_parameters(1)
    batch = task.sample_held_out_batch(tf.constant([1, 0]))
    assert np.isfinite(task.held_out_loss(parameters, state, batch))
