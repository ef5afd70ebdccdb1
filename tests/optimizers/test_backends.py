"""`L2LOptimizer` on TensorFlow, JAX and PyTorch: one number everywhere.

Each backend runs in a process of its own, JAX and PyTorch in one where
TensorFlow cannot be imported; `backend_runs.py` says what they run.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_l2l.optimizers import rule_config
from tests import components

ROOT = pathlib.Path(__file__).parents[2]
OTHERS = ("jax", "torch")
# The default rule orthogonalises gradients, which amplifies roundings.
TOLERANCES = dict.fromkeys(
    [
        "rule Hierarchical-2",
        "rule LearnedMuon-2",
        "fit general-2",
        "fit general-3",
        "fit general-4",
    ],
    1e-5,
)


def run(backend, *arguments):
    """Runs Python with a backend of Keras; returns what it has printed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def arrays_by_run(file):
    """Dict from names of runs to lists of arrays."""
    runs = {}
    with np.load(file) as arrays:
        for name in sorted(arrays):
            runs.setdefault(name.rpartition("/")[0], []).append(arrays[name])
    return runs


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with the runs of TensorFlow."""
    path = tmp_path_factory.mktemp("backends")
    rules = {
        name: rule_config.serialize(make())
        for name, make in components.RULES.items()
        if name not in components.SIBLINGS
    }
    (path / "rules.json").write_text(json.dumps(rules))
    run("tensorflow", "-m", "tests.optimizers.backend_runs", path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_numbers_are_those_of_tensorflow(directory, backend):
    """Rules, presets, options and the guard; `fit`, and files of TensorFlow.

    A model that is saved and loaded goes on exactly; the run asserts it.
    """
    run(backend, "-m", "tests.optimizers.backend_runs", directory)
    received = arrays_by_run(directory / f"{backend}.npz")
    expected = arrays_by_run(directory / "tensorflow.npz")
    assert received.keys() == expected.keys()
    for name, arrays in expected.items():
        tolerance = TOLERANCES.get(name, 1e-6)
        for one, two in zip(received[name], arrays, strict=True):
            np.testing.assert_allclose(
                one, two, rtol=tolerance, atol=tolerance, err_msg=name
            )


REFUSALS = """
import sys

sys.modules["tensorflow"] = None  # What imports it fails.

import pytest

import keras_l2l

assert keras_l2l.presets.load().count_params() > 0
for name in ("MetaTrainer", "tasks"):
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow"):
        getattr(keras_l2l, name)
with pytest.raises(RuntimeError, match="`export`.*KERAS_BACKEND=tensorflow"):
    keras_l2l.rules.Adam().export("anywhere")
with pytest.raises(RuntimeError, match="`load_graph_unsafe`"):
    keras_l2l.serialization.load_graph_unsafe("anywhere")
with pytest.raises(ValueError, match="meta_parameters.npz.*export it again"):
    keras_l2l.load_rule("tests/golden/rules/Adam")
assert not [name for name in sys.modules if name.startswith("tensorflow.")]
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_what_needs_tensorflow_says_so(backend):
    run(backend, "-c", REFUSALS)


# Two devices, which XLA makes of one processor.
DATA_PARALLEL = """
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np

import keras_l2l
from keras_l2l import rules
from tests.optimizers.backend_runs import fit, model_of

one = fit(model_of(keras_l2l.L2LOptimizer(rules.Adam(0.01))), 2)
devices = keras.distribution.list_devices()
assert len(devices) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
two = fit(model_of(keras_l2l.L2LOptimizer(rules.Adam(0.01))), 2)
for first, second in zip(one, two, strict=True):
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_data_parallel_on_jax_agrees_with_one_device():
    run("jax", "-c", DATA_PARALLEL)
