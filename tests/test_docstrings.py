"""The examples in the docstrings run, and print what they show.

An example finds the names of its own module, the package, Keras and NumPy,
and the small things of `_namespace`. It runs in a directory of its own, which
holds an exported rule, `my_rule`.
"""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_l2l
from keras_l2l import rules, tasks
from tests import components

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

_NOT_SHORT_YET = pytest.mark.xfail(run=False, reason="Not a short example yet")
# Examples that do not run everywhere or in seconds.
MARKS = {
    "keras_l2l.tasks.image_classification.mnist_mlp": [components.needs_mnist],
    "keras_l2l.tasks.image_classification.cifar_convnet": [
        components.needs_cifar,
        pytest.mark.large,  # Reads 60,000 images.
    ],
    "keras_l2l.reproduction.paper.reproduce": [_NOT_SHORT_YET],
}


def _examples():
    """Name → doctest of every docstring of the package that has an example."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = ["keras_l2l"] + [
        info.name
        for info in pkgutil.walk_packages(keras_l2l.__path__, "keras_l2l.")
        # They import a framework that may not be here.
        if not info.name.startswith("keras_l2l.optimizers.backends.")
    ]
    return {
        test.name: test
        for name in names
        for test in finder.find(importlib.import_module(name))
        if test.examples
    }


def _model():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def _namespace(source):
    """What stands for a user's own rule, model, data and pictures."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    pictures = generator.uniform(size=(2, 64, 64, 3))
    return {
        "keras": keras,
        "keras_l2l": keras_l2l,
        "np": np,
        "tf": tf,
        "tasks": tasks,
        "rules": rules,
        "presets": keras_l2l.presets,
        "rule": rules.CoordinatewiseLSTM(units=4, layers=1, seed=0),
        "task": tasks.Quadratic(dimensions=3),
        "model": _model() if "model" in source else None,
        "x": generator.normal(size=(20, 4)).astype("float32"),
        "y": generator.integers(3, size=20),
        "photos": pictures,
        "painting": pictures[0],
    }


EXAMPLES = _examples()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=MARKS.get(name, ())) for name in EXAMPLES],
)
def test_example(name, exported, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rule").symlink_to(exported / "lstm")
    test = EXAMPLES[name]
    source = "".join(example.source for example in test.examples)
    test.globs.update(_namespace(source))
    keras.config.disable_interactive_logging()  # No progress bars.
    request.addfinalizer(keras.config.enable_interactive_logging)
    report = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    failed, _ = runner.run(test, out=report.append)
    assert not failed, "".join(report)
