"""The experiments of the paper are found, run and shown."""

import ast
import pathlib

import pytest

from keras_l2l import cli, evaluation, experiments
from tests.test_plotting import GOOD, comparison

SCRIPT = '''"""What it does.

    and how.
"""

from keras_l2l import experiments


def main(output, full=False, seed=5):
    (output / "seen.txt").write_text(f"{full} {seed}")
    print("loss 1 to 0")


if __name__ == "__main__":
    experiments.run_script(main)
'''


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """One experiment, in place of the paper's."""
    root = tmp_path / "paper"
    root.mkdir()
    (root / "toy.py").write_text(SCRIPT)
    monkeypatch.setattr(experiments, "_ROOTS", (tmp_path / "not_here", root))
    monkeypatch.chdir(tmp_path)
    return root


def test_every_experiment_has_the_same_options():
    assert {"quadratics", "mnist", "cifar", "updates"} <= set(
        experiments.names()
    )
    for name in experiments.names():
        tree = ast.parse(experiments.path(name).read_text())
        assert f"examples/paper/{name}.py --full" in ast.get_docstring(tree)
        (main,) = (
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == "main"
        )
        assert [argument.arg for argument in main.args.args] == [
            *("output", "full", "seed")
        ]
        full, seed = map(ast.literal_eval, main.args.defaults)
        assert full is False
        assert isinstance(seed, int)


def test_reproduce(shelf, tmp_path):
    output = experiments.reproduce("toy")
    assert output == pathlib.Path("runs", "paper", "toy")
    assert (output / "seen.txt").read_text() == "False 5"
    experiments.reproduce("toy", tmp_path / "mine", full=True, seed=0)
    assert (tmp_path / "mine" / "seen.txt").read_text() == "True 0"
    with pytest.raises(ValueError, match=r"\['toy'\].*Did you mean 'toy'"):
        experiments.reproduce("toys")


def test_no_experiments_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "_ROOTS", (tmp_path / "nothing",))
    assert experiments.names() == ()


def test_a_script_on_its_own(shelf, monkeypatch):
    monkeypatch.setattr("sys.argv", ["toy.py", "--full", "--output", "there"])
    name = {"__name__": "__main__", "__file__": str(shelf / "toy.py")}
    exec(compile(SCRIPT, "toy.py", "exec"), name)
    assert pathlib.Path("there", "seen.txt").read_text() == "True 5"


def test_command_line(shelf, capsys):
    assert cli.main(["reproduce", "toy", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "loss 1 to 0" in printed
    assert "Wrote seen.txt to" in printed
    path = pathlib.Path("runs", "paper", "toy", "seen.txt")
    assert path.read_text() == "False 3"
    assert cli.main(["reproduce", "toys"]) == 2
    assert "Did you mean 'toy'" in capsys.readouterr().err


def test_baselines():
    assert experiments.baselines(full=True) is evaluation.BASELINES
    few = experiments.baselines(full=False)
    assert list(few) == list(evaluation.BASELINES)
    for name, baseline in few.items():
        rates = baseline.learning_rates
        assert 3 <= len(rates) <= 4
        assert set(rates) <= set(evaluation.BASELINES[name].learning_rates)


def test_show(tmp_path, capsys):
    experiments.show(comparison({"mine": GOOD}), tmp_path / "toy.json")
    assert "mine" in capsys.readouterr().out
    assert "learned" in (tmp_path / "toy.json").read_text()
