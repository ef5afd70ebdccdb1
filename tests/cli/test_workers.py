"""A command in several processes: what becomes of them, and of an error."""

import json
import os
import pathlib
import signal
import sys
import threading
import time

import click
import pytest

from keras_l2l.cli import workers
from keras_l2l.cli.errors import CommandError

# What a worker does, by its number. Each leaves a file with its process id.
SCRIPT = """
import json, os, pathlib, sys, time
config = json.loads(os.environ["TF_CONFIG"])
index = config["task"]["index"]
assert len(set(config["cluster"]["worker"])) == 2
pathlib.Path(sys.argv[1], str(index)).write_text(json.dumps(
    [os.getpid(), os.environ["TF_NUM_INTRAOP_THREADS"]]))
print("worker", index, flush=True)
"""
# It waits, as for a partner that has gone, and says if nothing woke it.
SLEEP = "time.sleep(30); pathlib.Path(sys.argv[1], 'waited').touch()"


def _run(directory, chief, other):
    script = f"{SCRIPT}\nif index == 0: {chief}\nelse: {other}\n"
    command = [sys.executable, "-c", script, str(directory)]
    workers.run(command, 2, "All is kept")


def _assert_all_ended(directory):
    for index in range(2):
        pid, _ = json.loads((directory / str(index)).read_text())
        assert not pathlib.Path(f"/proc/{pid}").exists()
    assert not (directory / "waited").exists()


def test_only_the_chief_prints(tmp_path, capfd):
    _run(tmp_path, "pass", "pass")
    assert capfd.readouterr().out == "worker 0\n"
    cores = len(os.sched_getaffinity(0))
    _, threads = json.loads((tmp_path / "1").read_text())
    assert threads == str(max(1, cores // 2))
    _assert_all_ended(tmp_path)


@pytest.mark.parametrize(
    ("chief", "other", "message"),
    [
        (
            SLEEP,
            "time.sleep(.2); os.kill(os.getpid(), 9)",
            "worker 1 of 2 was ",
        ),
        (
            "time.sleep(.2); os.kill(os.getpid(), 9)",
            SLEEP,
            "worker 0 of 2 was ",
        ),
        (
            SLEEP,
            "time.sleep(.2); sys.exit('no disk')",
            "1 of 2 failed: no disk",
        ),
    ],
)
def test_a_worker_that_ends_ends_all(
    tmp_path, monkeypatch, chief, other, message
):
    monkeypatch.setattr(workers, "_PATIENCE", 0.5)
    with pytest.raises(CommandError, match=message):
        _run(tmp_path, chief, other)
    _assert_all_ended(tmp_path)


def test_what_the_chief_reports_is_not_repeated(tmp_path):
    with pytest.raises(click.exceptions.Exit) as error:
        _run(tmp_path, "time.sleep(.2); sys.exit(2)", "sys.exit(2)")
    assert error.value.exit_code == 2


def test_an_interrupt_ends_all(tmp_path):
    def interrupt():
        while not all((tmp_path / str(i)).exists() for i in range(2)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # A job in the background is born deaf to it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, SLEEP, SLEEP)
    finally:
        signal.signal(signal.SIGINT, handler)
    _assert_all_ended(tmp_path)


def test_cases_are_taken_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_L2L_WORKERS", str(tmp_path))
    done = []

    def take_turns(worker, run=lambda case: None):
        def record(case):
            done.append((worker, case))
            run(case)

        with click.Context(click.Command("benchmark")) as context:
            with pytest.raises(click.exceptions.Exit) as error:
                workers.take_turns(context, 2, "abc", record, "All is kept")
            assert error.value.exit_code == 0

    # Another worker begins while the first one runs its first case.
    take_turns(0, lambda case: take_turns(1))
    assert done == [(0, "a"), (1, "b"), (1, "c")]
