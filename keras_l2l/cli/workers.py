"""A command in several processes, which share its work.

Those of one training go in step, by `tf.distribute`: the environment variable
`TF_CONFIG` tells a process of the others, on this machine or on many. Without
it, `--workers N` starts them here. Those that have cases which do not depend
on each other take them in turn.
"""

import contextlib
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from keras_l2l.cli import streams
from keras_l2l.cli.errors import CommandError, interruptible
from keras_l2l.cli.keras_backend import import_keras

_CLUSTER = "TF_CONFIG"
_DIRECTORY = "KERAS_L2L_WORKERS"  # of this command's processes, while they run
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

# Seconds between two looks at the workers; for them to end by themselves.
_INTERVAL, _PATIENCE = 0.1, 20.0

_EPOCHS_KEPT = (
    "The epochs that had ended are kept; the same command goes on from there"
)

option = functools.partial(
    click.option, "--workers", type=click.IntRange(min=1), metavar="N"
)


def join(context: click.Context, workers: int | None) -> Any:
    """Joins the other workers, and starts Keras.

    A process that is none of them starts them, and ends when they do.

    Args:
        context: The command's context.
        workers: Integer, the number of processes to start, or `None`.

    Returns:
        A `tf.distribute.MultiWorkerMirroredStrategy`; `None` for a process
        that is alone.
    """
    is_worker = _CLUSTER in os.environ
    if workers is not None and not is_worker:
        with interruptible(f"{_EPOCHS_KEPT}."):
            launch(context, workers, _EPOCHS_KEPT)
        context.exit()
    import_keras()
    if not is_worker:
        return None
    import tensorflow as tf

    # Before its first operation. It logs lines about devices.
    with streams.silent_stderr():
        return tf.distribute.MultiWorkerMirroredStrategy()


def take_turns(
    context: click.Context,
    workers: int,
    cases: Sequence[Any],
    run: Callable[[Any], Any],
    kept: str,
) -> None:
    """Shares cases that do not depend on each other among processes.

    Each takes the first case that no other has taken, until none is left, and
    leaves its results in files. Returns in the process that starts the others,
    when they have ended; they end here.

    Args:
        context: The command's context.
        workers: Integer, the number of processes to start.
        cases: Sequence, the same in all processes.
        run: Function of a case.
        kept: String, see `launch`.
    """
    if _DIRECTORY not in os.environ:
        launch(context, workers, kept)
        return
    directory = pathlib.Path(os.environ[_DIRECTORY])
    for number, case in enumerate(cases):
        try:
            (directory / f"case-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        run(case)
    context.exit()


def launch(context: click.Context, workers: int, kept: str) -> None:
    """Runs a command again, in processes of this machine.

    Args:
        context: The command's context.
        workers: Integer, the number of processes.
        kept: String, a sentence without its full stop: what a run that was
            stopped has kept, and how it goes on.
    """
    command = [sys.executable, "-m", "keras_l2l.cli"]
    arguments = [str(context.info_name), *context.meta["arguments"]]
    run([*command, *arguments], workers, kept)


def run(command: list[str], workers: int, kept: str) -> None:
    """Runs a command in processes of this machine, and waits for them.

    The first one, the chief, prints what the command prints.

    Args:
        command: List of strings, a program and its arguments.
        workers: Integer, the number of processes.
        kept: String, see `launch`.

    Raises:
        CommandError: If one of them was killed, or failed alone.
        click.exceptions.Exit: If the chief failed, and said why.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        _processes(command, workers, pathlib.Path(directory)) as processes,
    ):
        while None in (statuses := [p.poll() for p in processes]):
            if any(statuses):
                _fail(processes, pathlib.Path(directory), kept)
            time.sleep(_INTERVAL)
        if any(statuses):
            _fail(processes, pathlib.Path(directory), kept)


@contextlib.contextmanager
def _processes(
    command: list[str], workers: int, directory: pathlib.Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts the workers, and ends those that are left."""
    threads = max(1, _cores() // workers)
    cluster = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    processes: list[subprocess.Popen[bytes]] = []
    # A `kill` of this process ends the workers, too.
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for index in range(workers):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": cluster}, "task": task}
            environment = dict.fromkeys(_THREADS, str(threads)) | os.environ
            environment[_CLUSTER] = json.dumps(config)
            environment[_DIRECTORY] = str(directory)
            with open(directory / str(index), "wb") as log:
                processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log if index else None,
                        stderr=log if index else None,
                        # Ctrl-C is for this process alone.
                        start_new_session=True,
                    )
                )
        yield processes
    finally:
        for process in processes:
            process.kill()  # Files are written atomically.
            process.wait()
        signal.signal(signal.SIGTERM, former)


def _fail(
    processes: list[subprocess.Popen[bytes]], directory: pathlib.Path, kept: str
) -> None:
    """Raises an error about workers of which one at least has failed."""
    deadline = time.monotonic() + _PATIENCE
    while not _is_explained(processes) and time.monotonic() < deadline:
        time.sleep(_INTERVAL)
    for index, process in enumerate(processes):
        if process.poll() is not None and process.returncode < 0:
            raise CommandError(
                f"worker {index} of {len(processes)} was ended by "
                f"{signal.Signals(-process.returncode).name}. {kept}"
            )
    if processes[0].returncode:
        raise click.exceptions.Exit(processes[0].returncode)
    index = next(i for i, p in enumerate(processes) if p.returncode)
    lines = (directory / str(index)).read_text(errors="replace").splitlines()
    reason = lines[-1] if lines else "without a word"
    raise CommandError(f"worker {index} of {len(processes)} failed: {reason}")


def _is_explained(processes: list[subprocess.Popen[bytes]]) -> bool:
    """Whether a worker was killed, or the chief has said what is wrong."""
    statuses = [process.poll() or 0 for process in processes]
    return min(statuses) < 0 or statuses[0] > 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
