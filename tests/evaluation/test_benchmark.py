"""The benchmark: its runs, its figures, its report."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_l2l
from keras_l2l import rules, tasks
from keras_l2l.cli import main
from keras_l2l.evaluation import benchmark, benchmark_summary
from keras_l2l.evaluation.benchmark import (
    CONTENDERS,
    Benchmark,
    Contender,
    Result,
)
from keras_l2l.reports.benchmark_page import benchmark_tables, write_report
from keras_l2l.reports.benchmark_plots import plot_task
from keras_l2l.reports.plots import styles_of
from keras_l2l.tasks.benchmark_suite import SUITE, SuiteTask
from tests import components

TOY = {
    name: SuiteTask(lambda n=n: tasks.Quadratic(dimensions=n), 20)
    for name, n in (("two", 2), ("three", 3))
}
TOY_CONTENDERS = {
    "mine": benchmark.learned_contender(rules.SGD(0.05)),
    "Adam": Contender(lambda steps: rules.Adam(), (0.01, 0.1, 1.0)),
    "AdamW": Contender(lambda steps: rules.AdamW(decay_steps=steps)),
}


def _run(directory, **arguments):
    lines = []
    runner = Benchmark(
        TOY,
        directory,
        **{"seeds": 2, "sweep_seeds": 1, **arguments},
        progress=lines.append,
    )
    return runner.results(TOY_CONTENDERS), lines


def test_all_train_the_same_optimizees(tmp_path):
    results, _ = _run(tmp_path)
    assert [(r.task, r.optimizer) for r in results] == [
        (task, name) for task in TOY for name in TOY_CONTENDERS
    ]
    for task in TOY:
        firsts = [r.losses[:, 0] for r in results if r.task == task]
        assert np.ptp(firsts, axis=0).max() < 1e-6 * np.max(firsts)
    rates = {r.optimizer: r.learning_rate for r in results}
    assert rates["Adam"] in (0.01, 0.1, 1.0)
    assert rates["mine"] is None


def test_a_benchmark_goes_on_where_it_was_stopped(tmp_path):
    whole, lines = _run(tmp_path / "whole")
    _run(tmp_path / "part", seeds=1)
    rest, more = _run(tmp_path / "part")
    assert 0 < len(more) < len(lines)
    assert _run(tmp_path / "part")[1] == []
    for ours, theirs in zip(whole, rest):
        np.testing.assert_array_equal(ours.losses, theirs.losses)
        np.testing.assert_array_equal(ours.test_losses, theirs.test_losses)


def test_a_run_that_cannot_be_read_is_named_and_kept(tmp_path):
    _run(tmp_path)
    path = next((tmp_path / "two" / "Adam").iterdir())
    path.write_text('{"losses": [1.0')
    with pytest.raises(ValueError, match=rf"{path.name}.*Delete it to train"):
        _run(tmp_path)
    assert path.exists()


def test_a_task_that_has_changed_is_named_with_its_old_runs(tmp_path):
    """The first losses of a seed tell, whatever the optimizer."""
    Benchmark(TOY, tmp_path, seeds=1).result(
        "two", "Adam", TOY_CONTENDERS["AdamW"]
    )
    changed = {"two": SuiteTask(lambda: tasks.Quadratic(2, functions=2), 20)}
    runner = Benchmark(changed, tmp_path, seeds=1)
    contenders = dict.fromkeys(("Adam", "AdamW"), TOY_CONTENDERS["AdamW"])
    with pytest.raises(ValueError, match=r"task 'two'.*Delete") as error:
        runner.results(contenders)
    for optimizer in contenders:
        (path,) = (tmp_path / "two" / optimizer).iterdir()
        assert repr(str(path)) in str(error.value)
    (tmp_path / "two" / "Adam" / path.name).unlink()
    runner = Benchmark(changed, tmp_path, seeds=1)
    first, second = runner.results(contenders)
    np.testing.assert_array_equal(first.losses, second.losses)


def test_another_rule_of_the_same_name_has_runs_of_its_own(tmp_path):
    runner = Benchmark(TOY, tmp_path, seeds=1)
    first, second = (
        runner.result("two", "a:b", benchmark.learned_contender(rules.SGD(r)))
        for r in (0.01, 0.05)
    )
    assert first.optimizer == second.optimizer == "a:b"
    assert first.losses[0, -1] != second.losses[0, -1]


def test_the_command_tells_what_is_wrong_with_a_task(
    tmp_path, capsys, monkeypatch
):
    def make():
        raise ConnectionError("no network")

    monkeypatch.setitem(SUITE, "offline", SuiteTask(make, 10))
    arguments = ["benchmark", "--tasks", "offline", "--output", str(tmp_path)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "the task 'offline': no network" in error
    assert "Traceback" not in error


def test_a_rule_that_is_told_the_steps_is_the_optimizer_that_is(tmp_path):
    contender = benchmark.learned_contender(rules.SGD(0.05), is_told=True)
    runner = Benchmark(TOY, tmp_path, seeds=1)
    (received,) = runner.result("two", "told", contender).losses
    task = TOY["two"].make()
    parameters, state = task.initial_parameters(runner.seeds[0])
    variable = keras.Variable(parameters[0])
    optimizer = keras_l2l.L2LOptimizer(rules.SGD(0.05), total_steps=20)
    losses = []
    for _ in range(21):
        with tf.GradientTape() as tape:
            loss, _ = task.loss([variable.value], state, ())
        losses.append(float(loss))
        optimizer.apply(tape.gradient(loss, [variable.value]), [variable])
    np.testing.assert_allclose(received, losses, rtol=1e-4)


def _result(optimizer, losses, task="toy"):
    losses = np.array(losses, "float64")
    return Result(task, optimizer, None, False, losses, losses[:, -1])


def test_figures():
    falling = np.linspace(10.0, 1.0, 101)
    results = [
        _result("Adam", [falling, falling + 0.2]),
        _result("mine", [falling / 2.0] * 2),
        _result("lost", [falling, [*falling[:-1], np.nan]]),
    ]
    adam, mine, lost = benchmark_summary.summarize(results)
    assert adam.ratio == 1.0
    assert adam.final_loss == pytest.approx(falling[-10:].mean() + 0.1)
    assert adam.final_error == pytest.approx(0.1)
    assert mine.ratio == pytest.approx(
        0.5 * falling[-10:].mean() / adam.final_loss
    )
    # Half the loss is reached about half way.
    assert 80 < mine.steps_to_reference < 95
    assert lost.final_loss == np.inf
    assert lost.ratio == np.inf
    means = benchmark_summary.geometric_means([adam, mine, lost])
    assert means["lost"] == np.inf
    assert means["mine"] == pytest.approx(mine.ratio)


def test_geometric_mean():
    assert benchmark_summary.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_the_report_is_one_page(tmp_path):
    results, _ = _run(tmp_path / "runs")
    files = write_report(results, "mine", tmp_path)
    assert {"benchmark.json", "report.html", "profile.png"} <= set(files)
    document = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(document["rows"]) == len(results)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 1 + len(TOY)
    # Nothing is loaded from elsewhere.
    assert "http" not in page
    assert 'src="data:image/png;base64,' in page


def test_without_tuned_adam_there_are_no_ratios(tmp_path):
    results = [_result(name, [[2.0] * 11] * 2) for name in ("mine", "SGD")]
    rows = benchmark_summary.summarize(results)
    assert {row.ratio for row in rows} == {None}
    assert benchmark_summary.geometric_means(rows) == {}
    write_report(results, "mine", tmp_path)
    page = re.sub('base64,[^"]*', "", (tmp_path / "report.html").read_text())
    table, note = benchmark_tables(results, "mine")
    assert [c.header for c in table.columns][-1] == "Test"
    for text in (page, note.plain):
        assert "no ratios, as tuned Adam" in text
        assert "nan" not in text


def test_curves_show_the_spread_of_the_seeds_until_one_is_lost():
    low, high = np.geomspace(8.0, 0.5, 41), np.geomspace(8.0, 2.0, 41)
    lost = np.where(np.arange(41) < 30, low, np.inf)
    figure = plot_task(
        [_result("mine", [low, high]), _result("lost", [low, lost])], "mine"
    )
    (axes,) = figure.axes
    mine, other = axes.get_lines()
    np.testing.assert_allclose(mine.get_ydata(), (low + high) / 2)
    assert len(other.get_xdata()) == 30
    assert axes.get_yscale() == "log"
    (band, _) = axes.collections
    edge = band.get_paths()[0].vertices
    at_end = edge[edge[:, 0] == 40, 1]
    assert (at_end.min(), at_end.max()) == pytest.approx((0.5, 2.0))
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["mine", "lost, 1 of 2 diverged"]


def test_no_two_optimizers_are_drawn_alike():
    names = ["mine", "mine, total steps", *CONTENDERS]
    assert len(set(map(str, styles_of(names, "mine")))) == len(names)


def test_the_suite_is_large_and_not_trained_on():
    assert len(SUITE) >= 12
    assert max(task.steps for task in SUITE.values()) >= 10_000


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                mark
                for data, mark in (
                    ("mnist", components.needs_mnist),
                    ("cifar", components.needs_cifar),
                )
                if name.startswith(data)
            ],
        )
        for name in SUITE
    ],
)
@pytest.mark.large
def test_every_task_of_the_suite_trains(name):
    from keras_l2l.evaluation.comparison import learning_curves

    curves = learning_curves(rules.Adam(1e-3), SUITE[name].make(), [1], 50)
    assert np.isfinite(curves.losses).all()
    assert curves.losses[0, -10:].mean() < curves.losses[0, :10].mean()


def test_the_command(tmp_path, capsys):
    arguments = [
        "benchmark",
        *("--rule", "lstm-mnist", "--tasks", "table-regression"),
        *("--optimizers", "Adam, untuned", "--seeds", "1"),
        *("--output", str(tmp_path), "--json"),
    ]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["optimizer"] for row in document["rows"]] == [
        "lstm-mnist",
        "lstm-mnist, total steps",
        "Adam, untuned",
    ]
    assert (tmp_path / "report.html").exists()


def test_the_command_names_what_there_is(tmp_path, capsys):
    arguments = ["benchmark", "--tasks", "nothing", "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "mnist-mlp" in capsys.readouterr().err
