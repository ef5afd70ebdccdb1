"""Several processes on this machine train one rule."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_l2l.meta_training import checkpoint
from tests.meta_training.worker import train

WORKERS = 2
SECONDS = 120.0  # until a worker that lost another one must have ended


def _start(*arguments):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(WORKERS)]
    cluster = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for one in sockets:
        one.close()
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.meta_training.worker", *arguments],
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"worker": cluster},
                        "task": {"type": "worker", "index": index},
                    }
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(WORKERS)
    ]


@pytest.mark.slow
def test_a_killed_worker_and_another_number_of_them(tmp_path):
    """Two workers, then one, then two give the numbers of one."""
    expected = train(4)

    processes = _start(str(tmp_path), "4", "2")
    processes[1].communicate()
    assert processes[1].returncode == -signal.SIGKILL
    begin = time.monotonic()
    _, errors = processes[0].communicate(timeout=SECONDS)
    assert processes[0].returncode not in (0, None), errors
    assert "Start all of them again" in errors
    assert time.monotonic() - begin < SECONDS
    _, document = checkpoint.read(tmp_path / "worker-0" / "backup.npz")
    assert document["epoch"] == 2
    assert not (tmp_path / "worker-1").exists()

    train(3, tmp_path / "worker-0")

    processes = _start(str(tmp_path), "4", "-1")
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert "val_loss" in outputs[0][0]
    assert "val_loss" not in outputs[1][0]  # Only the chief prints.
    for index in range(WORKERS):
        with np.load(tmp_path / f"result-{index}.npz") as received:
            assert set(received) == set(expected)
            for name, values in expected.items():
                np.testing.assert_allclose(
                    received[name], values, rtol=1e-4, err_msg=name
                )
