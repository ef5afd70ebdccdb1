"""The suite *small*: its tables, its steps, its pretrained weights."""

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l.tasks import datasets, small_suite
from keras_l2l.tasks.small_suite import SMALL_SUITE


@pytest.mark.parametrize("name", ["iris-raw-mlp", "linnerud-raw-linear"])
def test_a_table_is_seen_a_hundred_times(name):
    suite_task = SMALL_SUITE[name]
    task = suite_task.make()
    batch, _ = task.sample_batch([0, 0])
    examples = {"iris": 120, "linnerud": 16}[name.split("-")[0]]
    assert suite_task.steps == 100 * suite_task.test_every
    assert suite_task.test_every == -(-examples // len(batch))


def test_the_suite_has_all_kinds():
    names = list(SMALL_SUITE)
    assert len(names) == 6 * 2 * 2 + 3
    for kind in ("raw-linear", "raw-mlp", "standardized-linear"):
        assert sum(name.endswith(kind) for name in names) == 6
    assert all(task.test_every for task in SMALL_SUITE.values())


@pytest.mark.parametrize("name", [*small_suite._CLASSES, *small_suite._NUMBERS])
def test_rows_of_the_tables(name):
    rows = {**small_suite._CLASSES, **small_suite._NUMBERS}[name]
    train, test = datasets.table(name, False, False)
    assert len(train[0]) == rows
    assert train[0].dtype == np.float32
    assert 0.15 < len(test[0]) / rows < 0.3
    standardized, _ = datasets.table(name)
    assert np.isfinite(standardized[0]).all()
    # Of diabetes the ages in years, and so on: nothing is scaled.
    assert np.abs(train[0]).max() > 5.0


def test_a_classifier_tells_its_accuracy():
    task = SMALL_SUITE["iris-standardized-linear"].make()
    kernel = np.zeros((4, 3), "float32")
    bias = np.array([1.0, 0.0, 0.0], "float32")
    parameters = [tf.constant(kernel), tf.constant(bias)]
    metrics = task.test_metrics(parameters, [])
    _, (_, labels) = datasets.table("iris")
    assert metrics["accuracy"] == pytest.approx(np.mean(labels == 0))
    assert metrics["loss"] == task.test_loss(parameters, [])


@pytest.fixture
def few_images(monkeypatch):
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(60, 32, 32, 3)).astype("float32")
    data = datasets.Dataset(*[(images, np.arange(60) % 10)] * 2)
    monkeypatch.setattr(datasets, "images", lambda name: data)
    monkeypatch.setattr(small_suite, "_PRETRAINING_EPOCHS", 1)


@pytest.mark.slow
def test_fine_tuning_starts_from_kept_weights(few_images, tmp_path):
    first = small_suite._fine_tuning(tmp_path)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    again = small_suite._fine_tuning(tmp_path)
    assert path.stat().st_mtime_ns == written
    anew = small_suite._fine_tuning(tmp_path / "another")
    for task in (again, anew):
        for ours, theirs in zip(
            tf.nest.flatten(first.initial_parameters(1)),
            tf.nest.flatten(task.initial_parameters(1)),
        ):
            np.testing.assert_array_equal(ours, theirs)
    # The head is fresh in each episode, the body is not.
    kernels, heads = zip(
        *(
            (parameters[0], parameters[-2])
            for seed in (1, 2)
            for parameters in [first.initial_parameters(seed)[0]]
        )
    )
    np.testing.assert_array_equal(*kernels)
    assert np.any(heads[0] != heads[1])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{path.name}.*Delete the file"):
        small_suite._fine_tuning(tmp_path)
