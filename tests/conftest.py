"""Configures TensorFlow before any test can initialise it."""

import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import pytest
import tensorflow as tf

# The same few examples in every run.
hypothesis.settings.register_profile(
    "few", max_examples=25, derandomize=True, database=None, deadline=None
)
hypothesis.settings.load_profile("few")

# A worker has one core. More threads than cores cost a sixth of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

# Devices for `tf.distribute`. They cost nothing where they are not used.
LOGICAL_CPUS = 4

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS,
)


@pytest.fixture(scope="session", autouse=True)
def fast(request):
    """Saves time in the fast suite; the others run as a user's process."""
    if "not slow" in request.config.option.markexpr:
        from keras_l2l.tasks import datasets

        # To decode 60,000 images takes seconds, in each process.
        datasets._SPLITS = ("train[:2000]", "test[:500]")
        # A compiled graph is run a few times. Read at XLA's first use.
        os.environ.setdefault(
            "XLA_FLAGS",
            "--xla_backend_optimization_level=0"
            " --xla_llvm_disable_expensive_passes=true",
        )


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A directory with two exported rules; copy before you change one."""
    from keras_l2l import rules
    from tests.components import METADATA

    root = tmp_path_factory.mktemp("exported")
    rules.Adam().export(root / "adam", metadata=METADATA)
    rules.CoordinatewiseLSTM(units=2).export(root / "lstm")
    return root


@pytest.fixture
def adam(exported, tmp_path):
    """The directory of an exported rule, to be spoiled."""
    return shutil.copytree(exported / "adam", tmp_path / "adam")


@pytest.fixture
def lstm(exported, tmp_path):
    """The directory of an exported rule, to be spoiled."""
    return shutil.copytree(exported / "lstm", tmp_path / "lstm")
