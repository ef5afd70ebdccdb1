import json
import math
import pathlib
import shutil
import tomllib

import keras
import pytest
from rich.console import Console

from keras_l2l import load_rule, packaged_files, presets, rules
from keras_l2l.cli import main
from keras_l2l.cli.application import application
from keras_l2l.cli.time_left import TimeLeft
from keras_l2l.evaluation.learning_rate_sweep import Sweep
from keras_l2l.evaluation.results import Comparison, Record
from keras_l2l.reports import tables
from keras_l2l.reproduction import paper, recipe_files, runner

TINY = ["--steps", "4", "--seeds", "2", "--sweep-seeds", "1"]
FILES = {"learning_curves.png", "learning_curves.csv", "comparison.json"}


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The directory of an untrained rule."""
    path = tmp_path_factory.mktemp("rules") / "tiny-lstm"
    metadata = {"description": "Untrained.", "scores": {"test_loss": 0.25}}
    rules.CoordinatewiseLSTM(units=2).export(path, metadata=metadata)
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch, exported):
    """That rule as the only preset."""
    root = tmp_path / "saved_models"
    shutil.copytree(exported, root / presets.DEFAULT)
    monkeypatch.setitem(packaged_files.DIRECTORIES, "presets", (root,))
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line_error(capsys, *arguments):
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("keras-l2l: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.slow
def test_compare_with_its_defaults(shelf, here, capsys):
    assert main(["compare", *TINY]) == 0
    table = capsys.readouterr().out
    for word in (presets.DEFAULT, "SGD", "NAG", "RMSprop", "Adam", "digits"):
        assert word in table
    assert "Wrote" in table
    assert "l2l_compare" in table
    assert {path.name for path in (here / "l2l_compare").iterdir()} == FILES


@pytest.mark.slow
def test_compare_prints_records_as_json(exported, tmp_path, capsys):
    command = [
        *("compare", "--rule", str(exported), "--task", "quadratic", "--json"),
        *("--output", str(tmp_path / "out"), "--test-every", "2"),
        *("--seed", "3", *TINY),
    ]
    assert main(command) == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 5 * 2
    assert {r["optimizer"] for r in records} == {
        *("tiny-lstm", "SGD", "NAG", "RMSprop", "Adam")
    }
    for record in records:
        assert record["task"] == "quadratic-10"
        assert len(record["losses"]) == 5
        assert record["final_loss"] == record["losses"][-1]
        assert list(record["test_losses"]) == ["2", "4"]
        is_learned = record["optimizer"] == "tiny-lstm"
        assert (record["learning_rate"] is None) == is_learned
    document = json.loads((tmp_path / "out/comparison.json").read_text())
    assert document["records"] == records
    # The same seed gives the same numbers.
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == records


MINE = """
import keras
import numpy as np


def data():
    return np.ones((20, 3)), np.arange(20) % 2


def build_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
"""


def test_compare_on_a_model_of_ones_own(exported, here, capsys):
    (here / "mine.py").write_text(MINE)
    command = [
        *("compare", "--rule", str(exported), "--json", *TINY),
        *("--data", "mine.py:data", "--model", "mine.py:build_model"),
        *("--loss", "sparse_categorical_crossentropy", "--batch-size", "4"),
    ]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "mine.py:data: 16 examples" in captured.err
    records = json.loads(captured.out)
    assert {record["task"] for record in records} == {"mine"}
    assert {path.name for path in (here / "l2l_compare").iterdir()} == FILES


@pytest.mark.slow
def test_compare_on_a_table(exported, here, capsys):
    rows = "".join(f"{i},{i % 3}\n" for i in range(20))
    (here / "table.csv").write_text("a,b\n" + rows)
    command = ["compare", "--rule", str(exported), "--data", "table.csv"]
    assert main([*command, "--units", "3", *TINY]) == 0
    captured = capsys.readouterr()
    assert "3 classes; perceptron" in captured.err
    assert "table, 4 steps" in captured.out


@pytest.mark.slow
def test_meta_train_on_a_model_of_ones_own(exported, here, capsys):
    (here / "mine.py").write_text(MINE)
    command = [
        *("meta-train", "--data", "mine.py:data"),
        *("--model", "mine.py:build_model", "--horizon", "40"),
        *("--loss", "sparse_categorical_crossentropy", "--json"),
        *("--rule", str(exported), "--epochs", "1", "--steps-per-epoch", "2"),
        *("--log-dir", "logs"),
    ]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(pathlib.Path("runs", "mine", "mine"))
    assert list(document["scores"]["test_loss"]) == ["40"]
    assert "stddev = 0.02" in pathlib.Path(document["report"]).read_text()
    assert sorted(path.name for path in (here / "logs").iterdir()) == [
        *("rule as it began", "training tasks", "tuned Adam", "validation")
    ]
    before, after = presets.resolve_rule(exported), load_rule(document["path"])
    assert type(after) is type(before)
    manifest = json.loads(
        (here / document["path"] / "manifest.json").read_text()
    )
    assert manifest["recipe"]["task_arguments"]["data"] == "mine.py:data"
    assert main(["inspect", document["path"]]) == 0


@pytest.mark.slow
def test_compare_with_a_network_of_choice(exported, tmp_path, capsys):
    network = ["--units", "3", "--depth", "2", "--activation", "relu"]
    rule = tmp_path / "Adam"  # the name of a baseline
    shutil.copytree(exported, rule)
    output = ["--output", str(tmp_path / "out"), "--batch-size", "8"]
    assert main(["compare", "--rule", str(rule), *network, *output, *TINY]) == 0
    table = capsys.readouterr().out
    assert "digits-mlp-3x2-relu" in table
    assert "Adam (learned)" in table


def test_the_table_warns_of_weak_baselines(capsys):
    records = tuple(
        Record("toy", name, rate, 0, (1.0, loss), {1: loss})
        for name, rate, loss in (
            ("mine", None, 0.5),
            ("wild", 0.1, math.nan),
            ("tame", 0.1, 0.25),
        )
    )
    sweeps = (Sweep("tame", (0.1, 1.0), (0.25, 0.5), 0.1, True),)
    comparison = Comparison("toy", "mine", 1, 0, "", sweeps, records)
    console = Console(width=100)
    console.print(*tables.comparison_table(comparison))
    text = " ".join(capsys.readouterr().out.split())
    assert "diverged 1/1" in text
    assert "Warning: wild diverged in 1 of 1 runs" in text
    assert "best learning rate of tame, 0.1, is the last" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["comparee"], "Did you mean 'compare'?"),
        (["compare", "--task", "digitz"], "not one of 'digits', 'mnist'"),
        (["compare", "--steps", "0"], "0 is not in the range x>=1"),
        (
            ["compare", "--seeds", "many"],
            "'--seeds': 'many' is not a valid integer",
        ),
        (["compare", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["compare", "--rule", "genreal-4"], "mean 'general-4'?"),
        (["compare", "--task", "quadratic", "--units", "3"], "--units"),
        (["compare", "--activation", "rellu"], "rellu"),
        (["compare", "--output", "a_file"], "--output must be writable"),
        (["compare", "--output", "a_file/below"], "--output must be writable"),
        (["compare", "--data", "no.csv"], "no file 'no.csv'"),
        (["compare", "--data", "a_file"], "must be a .csv, an .npz or"),
        (["compare", "--loss", "mse"], "--loss needs --data"),
        (
            ["compare", "--task", "mnist", "--data", "no.csv"],
            "--data does not go with --task mnist",
        ),
        (
            ["compare", "--data", "broken.py:data"],
            "raised KeyError: 'x', in line 2 of broken.py",
        ),
        (["meta-train"], "Missing argument 'RECIPE', or --data"),
        (["meta-train", "--loss", "mse"], "or --data"),
        (
            ["meta-train", "lstm-digits", "--data", "no.csv"],
            "--data does not go with the recipe 'lstm-digits'",
        ),
        (["meta-train", "--data", "no.csv"], "no file 'no.csv'"),
        (["inspect", "nowhere"], "'nowhere'"),
        (["inspect", "."], "manifest.json"),
        (["inspect"], "Missing argument 'NAME_OR_PATH'"),
        (["meta-train", "lstm-digit"], "Did you mean 'lstm-digits'?"),
        (
            ["meta-train", "lstm-digits", "--output", "a_file"],
            "--output must be writable",
        ),
        (["meta-train", "lstm-digits", "--epochs", "x"], "--epochs"),
        (["meta-train", "nowhere.toml"], "'nowhere.toml'"),
        (["meta-train", "broken.toml"], "`stages[0].unrol` is unknown"),
        (["recipes", "lstm-digit"], "Did you mean 'lstm-digits'?"),
        (["reproduce", "mnis"], "Did you mean 'mnist'?"),
        (["presets", "--jason"], "'--json'"),
    ],
)
def test_mistakes_are_one_line(shelf, here, capsys, arguments, message):
    (here / "a_file").touch()
    (here / "broken.py").write_text("def data():\n    return {}['x']\n")
    (here / "broken.toml").write_text(
        'description = ""\nrule = "RNNprop"\ntask = "Quadratic"\n'
        "[[stages]]\nunrol = 20\n"
    )
    assert message in one_line_error(capsys, *arguments)


def test_an_unwritable_output_is_found_before_the_run(
    shelf, here, capsys, monkeypatch
):
    def run(*_, **__):
        raise AssertionError("The run has begun.")

    monkeypatch.setattr("keras_l2l.evaluation.compare", run)
    (here / "a_file").touch()
    one_line_error(capsys, "compare", "--output", "a_file")


@pytest.mark.slow
def test_a_full_disk_is_one_line(shelf, here, capsys, monkeypatch):
    def plot(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("keras_l2l.reports.plots.plot_learning_curves", plot)
    message = one_line_error(
        capsys, "compare", "--task", "quadratic", "--json", *TINY
    )
    assert "No space left" in message


@pytest.mark.parametrize(
    ("arguments", "function", "kept"),
    [
        (
            ["presets"],
            "keras_l2l.presets.describe",
            "Nothing was changed: the same",
        ),
        (
            ["inspect", presets.DEFAULT],
            "keras_l2l.presets.resolve_rule",
            "Nothing was changed: the same",
        ),
        (
            ["compare", "--task", "quadratic"],
            "keras_l2l.evaluation.compare",
            "Nothing was kept: the same command begins",
        ),
        (
            ["benchmark", "--optimizers", "Adam, untuned"],
            "keras_l2l.evaluation.run_benchmark",
            "are kept in l2l_benchmark/; the same command goes on",
        ),
        (
            ["meta-train", "lstm-digits"],
            "keras_l2l.reproduction.runner.run",
            "are kept in runs/lstm-digits/; the same command goes on",
        ),
        (
            ["reproduce", "mnist"],
            "keras_l2l.reproduction.paper.reproduce",
            "is kept in runs/paper/mnist/; the same command goes on",
        ),
    ],
)
def test_an_interruption_tells_what_was_kept(
    shelf, here, capsys, monkeypatch, arguments, function, kept
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(function, interrupt)
    assert main(arguments) == 130
    error = capsys.readouterr().err
    assert error.startswith("keras-l2l: interrupted")
    assert error.count("\n") == 1
    assert kept in error


def test_bugs_are_not_hidden(monkeypatch):
    def stumble(**_):
        raise ValueError("a bug")

    monkeypatch.setattr(application.commands["presets"], "callback", stumble)
    with pytest.raises(ValueError, match="a bug"):
        main(["presets"])


def test_another_backend_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "numpy")
    error = one_line_error(capsys, "presets")
    assert "KERAS_BACKEND=tensorflow. Received: 'numpy'" in error


def test_presets(shelf, capsys):
    assert main(["presets"]) == 0
    table = capsys.readouterr().out
    assert presets.DEFAULT in table
    assert "Untrained." in table
    assert "  32  " in table  # two layers of two cells of two floats
    assert main(["presets", "--json", "--seed", "1"]) == 0
    (preset,) = json.loads(capsys.readouterr().out)
    assert preset == {
        "name": presets.DEFAULT,
        "description": "Untrained.",
        "parameters": rules.CoordinatewiseLSTM(units=2).count_params(),
        "scores": {"test_loss": 0.25},
        "against_adam": None,
        "state_bytes_per_coordinate": 32.0,
    }


def test_a_preset_has_one_figure(capsys):
    figure = {"ratio": 0.754, "task": "toy", "steps": 100}
    preset = presets.Preset("mine", "For toys.", 1234, {}, figure)
    Console(width=100).print(*tables.preset_table([preset], {"mine": 8.0}))
    text = " ".join(capsys.readouterr().out.split())
    assert "mine For toys. 1,234 8 0.75 toy, 100 steps" in text


def test_a_figure_is_of_the_preset_as_it_is(shelf, capsys):
    figure = {
        **{"ratio": 0.5, "task": "toy", "steps": 10},
        "manifest": presets.manifest_digest(presets.DEFAULT),
    }
    file = shelf / presets.AGAINST_ADAM
    file.write_text(json.dumps({presets.DEFAULT: figure}))
    (preset,) = presets.describe()
    assert preset.against_adam == {"ratio": 0.5, "task": "toy", "steps": 10}
    assert presets.names() == (presets.DEFAULT,)
    manifest = shelf / presets.DEFAULT / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    (preset,) = presets.describe()
    assert preset.against_adam is None


def test_scores_are_summed_up(capsys):
    scores = {"test_loss": {"100": [1.0, 2.0, 3.0, 4.0, 5.0]}, "seeds": [7] * 9}
    Console(width=80).print(*tables.detail_table({"scores": scores}))
    text = capsys.readouterr().out
    assert "test_loss 100: 3 ± 0.71 (5 values)" in text
    assert "seeds: 9 values" in text


def test_no_presets(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(packaged_files.DIRECTORIES, "presets", (tmp_path,))
    assert main(["presets"]) == 0
    assert "No presets" in capsys.readouterr().out


@pytest.mark.parametrize("by_name", [True, False])
def test_inspect(shelf, exported, capsys, by_name):
    name = presets.DEFAULT if by_name else str(exported)
    assert main(["inspect", name, "--seed", "5"]) == 0
    text = capsys.readouterr().out
    assert "CoordinatewiseLSTM" in text
    assert "8 numbers, 32 bytes" in text
    assert main(["inspect", name, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["config"]["units"] == 2
    assert document["state_floats_per_coordinate"] == 8
    assert document["state_bytes_per_coordinate"] == 32
    assert document["update_nanoseconds_per_coordinate"] > 0
    assert document["manifest"]["format"] == "keras_l2l.rule"


def test_inspect_loads_no_graph(exported, tmp_path, capsys):
    path = tmp_path / "without_graph"
    shutil.copytree(exported, path)
    (path / "saved_model.pb").write_bytes(b"not to be read")
    assert main(["inspect", str(path)]) == 0


@pytest.fixture
def recipe_calls(monkeypatch, exported):
    """Has `runner.run` return an exported rule; records its calls."""
    calls = []

    def run(recipe, output_dir, **arguments):
        calls.append((recipe.name, str(output_dir), arguments))
        print("a progress bar")
        return exported

    monkeypatch.setattr(runner, "run", run)
    return calls


def test_meta_train(recipe_calls, here, exported, capsys):
    assert main(["meta-train", "lstm-digits"]) == 0
    text = capsys.readouterr().out
    assert str(exported) in text.replace("\n", "")
    assert "test_loss: 0.25" in text
    nothing = {"epochs": None, "steps_per_epoch": None, "seed": None}
    default = str(pathlib.Path("runs", "lstm-digits"))
    (callback,) = recipe_calls[0][-1].pop("callbacks")
    assert isinstance(callback, TimeLeft)
    arguments = {**nothing, "verbose": 2, "strategy": None}
    assert recipe_calls == [("lstm-digits", default, arguments)]


def test_meta_train_as_json(recipe_calls, here, exported, capsys):
    options = ["--epochs", "2", "--steps-per-epoch", "3", "--seed", "4"]
    command = ["meta-train", "lstm-digits", "--output", "out", "--verbose"]
    assert main([*command, *options, "--json"]) == 0
    captured = capsys.readouterr()
    assert "a progress bar" in captured.err
    assert json.loads(captured.out) == {
        "recipe": "lstm-digits",
        "path": str(exported),
        "report": None,
        "seed": None,
        "scores": {"test_loss": 0.25},
    }
    arguments = {"epochs": 2, "steps_per_epoch": 3, "seed": 4, "verbose": 1}
    arguments["strategy"] = None
    assert [type(c) for c in recipe_calls[0][-1].pop("callbacks")] == [TimeLeft]
    assert recipe_calls == [("lstm-digits", "out", arguments)]


def test_meta_train_by_a_recipe_of_ones_own(recipe_calls, here, capsys):
    assert main(["recipes", "lstm-digits"]) == 0
    (here / "mine.toml").write_text(capsys.readouterr().out)
    assert main(["meta-train", "mine.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "mine"
    name, output, _ = recipe_calls[0]
    assert (name, output) == ("mine", str(pathlib.Path("runs", "mine")))


def test_recipes(capsys):
    assert main(["recipes"]) == 0
    table = capsys.readouterr().out
    assert main(["recipes", "--json"]) == 0
    descriptions = json.loads(capsys.readouterr().out)
    assert tuple(descriptions) == recipe_files.names()
    assert all(name in table for name in descriptions)


@pytest.mark.parametrize("name", recipe_files.names())
def test_a_recipe_is_printed_as_it_is(name, capsys):
    assert main(["recipes", name]) == 0
    printed = capsys.readouterr().out
    assert printed == recipe_files.path(name).read_text(encoding="utf-8")
    assert main(["recipes", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == tomllib.loads(printed)


@pytest.mark.parametrize("command", ["", *application.commands])
def test_help(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: keras-l2l" in text
    assert ("--json" in text) == bool(command)


def test_help_names_what_there_is(capsys):
    for command, names in (
        ("meta-train", recipe_files.names()),
        ("reproduce", paper.names()),
    ):
        main([command, "--help"])
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in names)


def test_the_default_rule_is_the_default_preset():
    # Written out in the options, which do not import `presets`.
    (rule,) = (
        option
        for option in application.commands["compare"].params
        if option.name == "rule"
    )
    assert rule.default == presets.DEFAULT
