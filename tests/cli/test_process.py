"""The process `keras-l2l`: streams, signals, and what it imports."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_l2l import load_rule
from keras_l2l.cli import __main__

# As the installed script does, which has this name.
SCRIPT = (
    "import sys; sys.argv[0] = 'keras-l2l'; "
    "from keras_l2l.cli.__main__ import run; run()"
)
C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
RECIPE = """
description = "A run of a few seconds."
rule = "CoordinatewiseLSTM"
rule_arguments = { units = 2 }
task = "Quadratic"
horizon = 4
score_steps = [2]

[[stages]]
unroll = 2
steps_per_epoch = 1
epochs = 1000
validation_freq = 0
"""


def start(*arguments, environment=(), **streams):
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL")
    }
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**kept, **dict(environment)},
        **streams,
    )


def run(*arguments, **options):
    process = start(*arguments, **options)
    output, error = process.communicate()
    return process.returncode, output, error.decode()


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["meta-train", "--help"], ["recipes"]],
)
def test_light_commands_do_without_keras(arguments):
    environment = {"KERAS_BACKEND": "none, as it is not imported"}
    assert run(*arguments, environment=environment)[0] == 0


def test_shell_completion():
    environment = {
        "_KERAS_L2L_COMPLETE": "bash_complete",
        "COMP_WORDS": "keras-l2l meta-train lstm-d",
        "COMP_CWORD": "2",
    }
    status, output, _ = run(environment=environment)
    assert (status, output.decode().split()) == (0, ["plain,lstm-digits"])


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE]
)
@pytest.mark.parametrize("arguments", [["recipes"], ["meta-train", "--help"]])
def test_an_output_that_is_no_unicode(environment, arguments):
    status, output, error = run(*arguments, environment=environment)
    assert (status, error) == (0, "")
    assert b"trained to paint in one style" in output


def test_signs_in_ascii():
    options = {"environment": {"PYTHONIOENCODING": "ascii"}}
    output = run("recipes", **options)[1].decode("ascii")
    assert "64x64" in output


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        ("closed", "standard output is closed"),
        ("/dev/full", "No space left on device"),
    ],
)
@pytest.mark.parametrize("arguments", [["recipes"], ["meta-train", "--help"]])
def test_an_output_that_cannot_be_written(stdout, message, arguments):
    if stdout == "closed":
        options = {"stdout": None, "preexec_fn": lambda: os.close(1)}
        status, _, error = run(*arguments, **options)
    else:
        with open(stdout, "wb") as full:
            status, _, error = run(*arguments, stdout=full)
    assert status == 2
    assert error.startswith("keras-l2l: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_nothing_is_open():
    def close():
        os.closerange(0, 3)

    nothing = {"stdin": None, "stdout": None, "stderr": None}
    process = start("recipes", **nothing, preexec_fn=close)
    assert process.wait() == 2


def test_a_reader_that_stops_early():
    with start("recipes") as process:
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (0, b"")


def test_a_backend_that_there_is_not():
    status, _, error = run("presets", environment={"KERAS_BACKEND": "numpie"})
    assert status == 2
    assert error.count("\n") == 1
    assert "must be 'tensorflow' or unset. Received: 'numpie'" in error


def _interruptible():
    """For a child, also where the test's own process is not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interruption(error):
    """The one line that says so, after the time left; none of TensorFlow's."""
    *before, line = error.splitlines()
    assert all(" left, about " in other for other in before)
    assert line.startswith("keras-l2l: interrupted. The epochs that had ended")
    return line


@pytest.mark.slow
def test_a_training_survives_its_reader_and_goes_on_after_ctrl_c(tmp_path):
    (tmp_path / "mine.toml").write_text(RECIPE)
    command = ["meta-train", str(tmp_path / "mine.toml")]
    command += ["--output", str(tmp_path / "out")]
    backup = tmp_path / "out" / "backup-1" / "backup.npz"

    with start(*command, preexec_fn=_interruptible) as process:
        assert process.stdout.readline()
        process.stdout.close()  # as `head -1` does
        for _ in range(2):  # epochs that end after that
            backup.unlink(missing_ok=True)
            while not backup.exists():
                assert process.poll() is None
                time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read().decode()
    assert process.returncode == 130
    error = _interruption(error)
    assert f"{tmp_path / 'out'}{os.sep}; the same command goes on" in error

    (tmp_path / "mine.toml").write_text(RECIPE.replace("1000", "2"))
    with open("/dev/full", "wb") as full:
        status, _, error = run(*command, stdout=full)
    assert status == 2
    assert "What was written to files is complete." in error
    assert load_rule(tmp_path / "out" / "mine").units == 2


def test_as_a_module():
    command = [sys.executable, "-m", "keras_l2l.cli", "recipes", "--json"]
    environment = {**os.environ, "KERAS_BACKEND": "none, as it is not imported"}
    output = subprocess.check_output(command, env=environment)
    assert "lstm-digits" in json.loads(output)


@pytest.mark.parametrize("chosen", [None, "false"])
def test_a_process_has_the_allocator_of_tensorflow(monkeypatch, chosen):
    name = "TF_CPU_ALLOCATOR_USE_BFC"
    monkeypatch.setattr(os, "environ", {name: chosen} if chosen else {})
    monkeypatch.setattr(__main__, "main", lambda: 3)
    monkeypatch.setattr(__main__.streams, "install", lambda: None)
    monkeypatch.setattr(__main__.streams, "output_error", lambda: None)
    with pytest.raises(SystemExit) as stop:
        __main__.run()
    assert stop.value.code == 3
    assert os.environ == {name: chosen or "true"}


@pytest.mark.slow
def test_a_training_on_two_workers(tmp_path):
    """Interrupted, begun anew, and with the numbers of one process."""
    recipe = RECIPE.replace("unroll = 2", "unroll = 2\noptimizees = 2")
    (tmp_path / "mine.toml").write_text(recipe)
    command = ["meta-train", str(tmp_path / "mine.toml")]
    together = [*command, "--output", str(tmp_path / "out"), "--workers", "2"]
    backup = tmp_path / "out" / "backup-1" / "backup.npz"

    with start(*together, preexec_fn=_interruptible) as process:
        while not backup.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read().decode()
    assert process.returncode == 130
    _interruption(error)

    (tmp_path / "mine.toml").write_text(recipe.replace("1000", "2"))
    backup.unlink()
    status, output, error = run(*together, "--json")
    assert (status, json.loads(output)["recipe"]) == (0, "mine"), error
    status, *_ = run(*command, "--output", str(tmp_path / "alone"))
    assert status == 0
    received = load_rule(tmp_path / "out" / "mine").get_weights()
    expected = load_rule(tmp_path / "alone" / "mine").get_weights()
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.slow
def test_a_benchmark_on_two_workers(tmp_path):
    """A worker is killed; begun anew, the runs are those of one process."""
    command = ["benchmark", "--suite", "small", "--tasks", "iris-raw-linear"]
    command += ["--optimizers", "Adam, untuned", "--seeds", "2", "--json"]
    together = [*command, "--output", str(tmp_path / "out"), "--workers", "2"]
    runs = tmp_path / "out" / "runs"

    with start(*together) as process:
        while not any(runs.rglob("*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        children = f"/proc/{process.pid}/task/{process.pid}/children"
        worker = pathlib.Path(children).read_text().split()[-1]
        os.kill(int(worker), signal.SIGKILL)
        error = process.stderr.read().decode().splitlines()[-1]
    assert process.returncode == 2
    assert "of 2 was ended by SIGKILL. The runs that had ended are k" in error
    assert error.endswith(f"{os.sep}; the same command goes on from there")

    status, output, error = run(*together)
    assert status == 0, error
    status, alone, _ = run(*command, "--output", str(tmp_path / "alone"))
    assert status == 0
    results = [_without_times(json.loads(text)) for text in (output, alone)]
    assert results[0] == results[1]
    # The default is untrained, so it has no row of its nominal.
    optimizers = [row["optimizer"] for row in results[0]["rows"]]
    names = ["general-4", "general-4, total steps", "Adam, untuned"]
    assert optimizers == names
    assert len(list(runs.rglob("*.json"))) == 6


def _without_times(document):
    if isinstance(document, list):
        return [_without_times(value) for value in document]
    if isinstance(document, dict):
        return {
            key: _without_times(value)
            for key, value in document.items()
            if "seconds" not in key
        }
    return document
