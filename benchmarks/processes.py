"""Threads, devices and processes of the benchmarks."""

import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

# Each row has a `tf.function` of its own, which TensorFlow warns of.
tf.get_logger().setLevel("ERROR")

_HAS_AFFINITY = hasattr(os, "sched_setaffinity")
# Before anything is pinned. The last cores are taken first: the first one
# serves the interrupts.
CORES = (
    sorted(os.sched_getaffinity(0))
    if _HAS_AFFINITY
    else list(range(os.cpu_count() or 1))
)


def set_threads(count):
    """Limits this process. Call it before the first operation runs."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)
    # JAX has no other setting: its pool has as many threads as the process
    # may use cores. TensorFlow's own XLA reads the flag, too.
    eigen = f"--xla_cpu_multi_thread_eigen={str(count > 1).lower()}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {eigen}"
    _pin(count)


def set_device(device):
    """`"cpu"` hides the GPUs. Call it before the first operation runs."""
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
        os.environ["JAX_PLATFORMS"] = "cpu"
        return
    # The two libraries share the memory of one device.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def run_script(name, *arguments, threads, environment=None):
    """Runs a script beside this one in a process of its own.

    Args:
        name: String, the name of the script's file.
        *arguments: Its arguments.
        threads: Integer. How many cores the process may use.
        environment: Dict of environment variables, beside those of this
            process. Defaults to `None`.

    Returns:
        What it prints, read as JSON.
    """
    path = pathlib.Path(__file__).with_name(name)
    pinned = os.sched_getaffinity(0) if _HAS_AFFINITY else None
    _pin(threads)  # A process inherits it.
    try:
        printed = subprocess.run(
            [sys.executable, path, *map(str, arguments)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        ).stdout
    finally:
        if pinned:
            os.sched_setaffinity(0, pinned)
    return json.loads(printed)


def _pin(count):
    if _HAS_AFFINITY:
        os.sched_setaffinity(0, CORES[-count:])
