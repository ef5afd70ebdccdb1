"""The experiments of the paper are found, run and shown."""

import ast
import pathlib

import pytest

from keras_l2l import cli, evaluation, packaged_files, rules, tasks
from keras_l2l.evaluation.episode_runner import EpisodeRunner
from keras_l2l.reproduction import paper

SCRIPT = '''"""What it does.

    and how.
"""

from keras_l2l.reproduction import paper


def main(output, full=False, seed=5):
    (output / "seen.txt").write_text(f"{full} {seed}")
    print("loss 1 to 0")


if __name__ == "__main__":
    paper.run_script(main)
'''


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """One experiment, in place of the paper's."""
    root = tmp_path / "paper"
    root.mkdir()
    (root / "toy.py").write_text(SCRIPT)
    monkeypatch.setitem(
        packaged_files.DIRECTORIES, "experiments", (tmp_path / "not_here", root)
    )
    monkeypatch.chdir(tmp_path)
    return root


def test_every_experiment_has_the_same_options():
    assert {"quadratics", "mnist", "cifar", "updates"} <= set(paper.names())
    for name in paper.names():
        tree = ast.parse(paper.path(name).read_text())
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
    output = paper.reproduce("toy")
    assert output == pathlib.Path("runs", "paper", "toy")
    assert (output / "seen.txt").read_text() == "False 5"
    paper.reproduce("toy", tmp_path / "mine", full=True, seed=0)
    assert (tmp_path / "mine" / "seen.txt").read_text() == "True 0"
    with pytest.raises(ValueError, match=r"\['toy'\].*Did you mean 'toy'"):
        paper.reproduce("toys")


def test_no_experiments_at_all(tmp_path, monkeypatch):
    monkeypatch.setitem(
        packaged_files.DIRECTORIES, "experiments", (tmp_path / "nothing",)
    )
    assert paper.names() == ()


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
    assert paper.baselines(full=True) is evaluation.BASELINES
    few = paper.baselines(full=False)
    assert list(few) == list(evaluation.BASELINES)
    for name, baseline in few.items():
        rates = baseline.learning_rates
        assert 3 <= len(rates) <= 4
        assert set(rates) <= set(evaluation.BASELINES[name].learning_rates)


def test_a_comparison_is_kept(tmp_path, capsys, monkeypatch):
    def compare(rate, **changes):
        return paper.run_comparison(
            tmp_path,
            "a toy",
            {"mine": rules.SGD(rate)},
            tasks.Quadratic(2),
            **{"steps": 2, "seeds": 2, "sweep_seeds": 1, "seed": 0, **changes},
            baselines={
                "SGD": evaluation.OptimizerSpec(
                    lambda steps: rules.SGD(), (1e-3, 1e-2)
                )
            },
        )

    first = compare(0.01)
    assert "mine" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"a-toy.json", "runs"}
    with monkeypatch.context() as patch:
        patch.setattr(EpisodeRunner, "run", None)
        assert compare(0.01) == first
    assert "mine" in capsys.readouterr().out
    # Neither of another rule nor with other arguments.
    assert compare(0.02) != first
    assert compare(0.02, steps=3).steps == 3
    assert len(compare(0.02, seeds=3).records) == 6
    path = next((tmp_path / "runs" / "a-toy" / "SGD").iterdir())
    path.write_text("{")
    with pytest.raises(ValueError, match=rf"{path.name}.*Delete it to train"):
        compare(0.02, seeds=3)
