"""Each example runs, from start to end, with tiny settings."""

import pathlib
import runpy
import subprocess
import sys

import pytest

from keras_l2l.reproduction import paper
from tests import components

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ARGUMENTS = {
    "compare_on_your_model.py": [
        *("--steps", "3", "--seeds", "1", "--sweep-seeds", "1"),
    ],
    "use_in_keras.py": ["--epochs", "1"],
    "learn_your_own.py": ["--epochs", "1", "--steps-per-epoch", "2"],
    **{f"paper/{name}.py": ["--output", "out"] for name in paper.names()},
}
FAST = {"use_in_keras.py", "paper/quadratics.py"}
# They make the operations of their process deterministic for good.
IN_A_PROCESS = {"paper/feature_network.py"}


def test_every_example_is_run():
    found = EXAMPLES.rglob("*.py")
    assert {str(path.relative_to(EXAMPLES)) for path in found} == set(ARGUMENTS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                *([pytest.mark.slow] if name not in FAST else []),
                *(
                    [components.needs_mnist, components.needs_cifar]
                    if name.startswith("paper")
                    else []
                ),
            ],
        )
        for name in ARGUMENTS
    ],
)
def test_example(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    if name in IN_A_PROCESS:
        command = [sys.executable, EXAMPLES / name, *ARGUMENTS[name]]
        subprocess.run(command, check=True)
    else:
        # In this process, which has already loaded TensorFlow.
        monkeypatch.setattr(sys, "argv", [name, *ARGUMENTS[name]])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert "loss" in capfd.readouterr().out
