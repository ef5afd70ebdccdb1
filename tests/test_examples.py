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
    "learn_your_own.py": [
        *("--epochs", "1", "--steps-per-epoch", "2"),
        *("--horizon", "20", "--seeds", "1"),
    ],
    "learned_update.py": ["--steps", "2"],
    "paint.py": ["--size", "16", "--steps", "2"],
    "table.py": ["--epochs", "2"],
    "text.py": ["--steps", "2"],
    "use_in_keras.py": ["--epochs", "1"],
    **{f"paper/{name}.py": ["--output", "out"] for name in paper.names()},
}
# Name → the pictures that it writes.
PICTURES = {
    "learn_your_own.py": ["learned.png"],
    "learned_update.py": ["update.png", "history.png"],
    "paint.py": ["painted.png"],
    "table.py": ["table.png"],
    "text.py": ["text.png"],
    "use_in_keras.py": ["images.png"],
}
FAST = {"learned_update.py"}
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
    for picture in PICTURES.get(name, []):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
