"""The benchmark: its runs and its figures."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_l2l
from keras_l2l import evaluation, rules, tasks
from keras_l2l.cli import main
from keras_l2l.evaluation import OptimizerSpec, learned_spec
from keras_l2l.tasks import datasets
from keras_l2l.tasks.benchmark_suite import SUITE, SuiteTask
from tests import components
from tests.reports.test_plots import comparison

TOY = {
    name: SuiteTask(lambda n=n: tasks.Quadratic(dimensions=n), 20)
    for name, n in (("two", 2), ("three", 3))
}
TOY_OPTIMIZERS = {
    "mine": learned_spec(rules.SGD(0.05)),
    "Adam": OptimizerSpec(lambda steps: rules.Adam(), (0.01, 0.1, 1.0)),
    "AdamW": OptimizerSpec(lambda steps: rules.AdamW(decay_steps=steps)),
}
UNTUNED = {"AdamW": TOY_OPTIMIZERS["AdamW"]}


def _run(directory, suite=TOY, optimizers=TOY_OPTIMIZERS, seeds=2):
    calls = []
    comparisons = evaluation.run_benchmark(
        suite,
        optimizers,
        directory,
        seeds=seeds,
        sweep_seeds=1,
        progress=lambda *call: calls.append(call),
    )
    return comparisons, calls


def test_all_train_the_same_optimizees(tmp_path):
    comparisons, calls = _run(tmp_path)
    assert [of_one.task for of_one in comparisons] == list(TOY)
    for of_one in comparisons:
        assert of_one.optimizers == tuple(TOY_OPTIMIZERS)
        assert of_one.learned == "mine"
        firsts = [of_one.losses_of(name)[:, 0] for name in TOY_OPTIMIZERS]
        assert np.ptp(firsts, axis=0).max() < 1e-6 * np.max(firsts)
    names, done, totals = zip(*calls)
    assert set(names) == {f"{t}: {n}" for t in TOY for n in TOY_OPTIMIZERS}
    assert done[-1] == len(calls) == totals[-1]


@pytest.mark.slow
def test_a_benchmark_goes_on_where_it_was_stopped(tmp_path):
    whole, calls = _run(tmp_path / "whole")
    _run(tmp_path / "part", seeds=1)
    rest, more = _run(tmp_path / "part")
    assert 0 < len(more) < len(calls)
    assert _run(tmp_path / "part")[1] == []
    for ours, theirs in zip(whole, rest):
        assert ours.to_dict() == theirs.to_dict()


def test_data_are_loaded_only_if_a_run_is_missing(tmp_path):
    def make():
        raise AssertionError("Nothing is left to train.")

    _run(tmp_path)
    kept = {name: SuiteTask(make, task.steps) for name, task in TOY.items()}
    assert _run(tmp_path, kept)[1] == []


def test_runs_that_an_earlier_version_kept_are_used(tmp_path):
    (expected, _), _ = _run(tmp_path / "new", optimizers=UNTUNED)
    for record in expected.records:
        path = tmp_path / "old" / "two" / "AdamW" / f"{record.seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "losses": record.losses,
            "test_loss": record.test_losses[20],
        }
        path.write_text(json.dumps(document))
    (received,), calls = _run(
        tmp_path / "old", {"two": TOY["two"]}, optimizers=UNTUNED
    )
    assert calls == []
    assert received.to_dict() == expected.to_dict()


def test_a_task_that_has_changed_is_named_with_its_old_runs(tmp_path):
    """The first losses of a seed tell, whatever the optimizer."""
    two = {"two": TOY["two"]}
    spec = TOY_OPTIMIZERS["AdamW"]
    _run(tmp_path, two, {"Adam": spec}, seeds=1)
    changed = {"two": SuiteTask(lambda: tasks.Quadratic(2, functions=2), 20)}
    both = dict.fromkeys(("Adam", "AdamW"), spec)
    with pytest.raises(ValueError, match=r"task has changed.*Delete") as error:
        _run(tmp_path, changed, both, seeds=1)
    for optimizer in both:
        (path,) = (tmp_path / "two" / optimizer).iterdir()
        assert repr(str(path)) in str(error.value)
    (tmp_path / "two" / "Adam" / path.name).unlink()
    ((found,), _) = _run(tmp_path, changed, both, seeds=1)
    first, second = (found.losses_of(name) for name in both)
    np.testing.assert_array_equal(first, second)


def test_another_rule_of_the_same_name_has_runs_of_its_own(tmp_path):
    two = {"two": TOY["two"]}
    first, second = (
        _run(tmp_path, two, {"a:b": learned_spec(rules.SGD(r))})[0][0]
        for r in (0.01, 0.05)
    )
    assert first.optimizers == second.optimizers == ("a:b",)
    assert first.losses_of("a:b")[0, -1] != second.losses_of("a:b")[0, -1]


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
    spec = learned_spec(rules.SGD(0.05), has_cooldown=True)
    ((found,), _) = _run(tmp_path, {"two": TOY["two"]}, {"told": spec}, 1)
    (record,) = found.records
    task = TOY["two"].make()
    parameters, state = task.initial_parameters(record.seed)
    variable = keras.Variable(parameters[0])
    optimizer = keras_l2l.L2LOptimizer(rules.SGD(0.05), total_steps=20)
    losses = []
    for _ in range(21):
        with tf.GradientTape() as tape:
            loss, _ = task.loss([variable.value], state, ())
        losses.append(float(loss))
        optimizer.apply(tape.gradient(loss, [variable.value]), [variable])
    np.testing.assert_allclose(record.losses, losses, rtol=1e-4)


def test_figures():
    falling = np.linspace(10.0, 1.0, 101)
    rows = evaluation.summarize(
        [
            comparison(
                {
                    "Adam": [falling, falling + 0.2],
                    "mine": [falling / 2.0] * 2,
                    "lost": [falling, [*falling[:-1], np.nan]],
                }
            )
        ]
    )
    adam, mine, lost = rows
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
    means = evaluation.geometric_means(rows)
    assert means["lost"] == np.inf
    assert means["mine"] == pytest.approx(mine.ratio)


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
    curves = evaluation.learning_curves(
        rules.Adam(1e-3), SUITE[name].make(), [1], 50
    )
    assert np.isfinite(curves.losses).all()
    assert curves.losses[0, -10:].mean() < curves.losses[0, :10].mean()


@pytest.mark.slow
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
        "lstm-mnist, nominal",
        "Adam, untuned",
    ]
    assert (tmp_path / "report.html").exists()


def test_the_small_suite_leaves_out_what_must_be_downloaded(
    tmp_path, capsys, monkeypatch
):
    def make():
        raise AssertionError("It must not be made.")

    suite = {"toy": TOY["two"], "far": SuiteTask(make, 10, data="mnist")}
    monkeypatch.setitem(evaluation.SUITES, "small", suite)
    monkeypatch.setattr(datasets, "has_images", lambda name: False)
    arguments = [
        *("benchmark", "--suite", "small", "--rule", "lstm-mnist"),
        *("--optimizers", "Adam, untuned", "--reference", "Adam, untuned"),
        *("--seeds", "1", "--output", str(tmp_path), "--json"),
    ]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "far is left out: mnist has not been downloaded" in captured.err
    document = json.loads(captured.out)
    assert {row["task"] for row in document["rows"]} == {"toy"}
    assert document["held_out_geometric_means"]["Adam, untuned"] == 1.0


def test_runs_can_be_longer(tmp_path, capsys, monkeypatch):
    suite = {"toy": SuiteTask(TOY["two"].make, 10, test_every=5)}
    monkeypatch.setitem(evaluation.SUITES, "small", suite)
    arguments = [
        *("benchmark", "--suite", "small", "--rule", "lstm-mnist"),
        *("--optimizers", "Adam, untuned", "--reference", "Adam, untuned"),
        *("--seeds", "1", "--output", str(tmp_path), "--json"),
    ]
    assert main([*arguments, "--times", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["task"] for row in document["rows"]} == {"toy-3-times"}
    (run,) = (tmp_path / "runs/toy-3-times/Adam-untuned").glob("*.json")
    record = json.loads(run.read_text())
    assert len(record["losses"]) == 31
    assert list(record["test_losses"]) == ["15", "30"]


def test_rates_are_chosen_by_the_loss_that_is_asked_for(tmp_path):
    class Opposite(tasks.Quadratic):
        def test_loss(self, parameters, model_state):
            return -super().test_loss(parameters, model_state)

    def best(criterion):
        (comparison,) = evaluation.run_benchmark(
            {"toy": SuiteTask(lambda: Opposite(2), 20)},
            {"Adam": OptimizerSpec(lambda steps: rules.Adam(), (0.01, 0.1))},
            tmp_path,
            *(1, 1),
            criterion=criterion,
        )
        return comparison.sweeps[0]

    training, held_out = best("training"), best("held-out")
    assert training.best > held_out.best
    assert max(held_out.scores) < 0.0 < min(training.scores)


def test_nominal_is_the_rule_before_it_was_trained():
    rule = rules.Hierarchical(units=4, coordinate_units=3, seed=1)
    trained = rule.copy()
    trained.set_weights([weight + 1.0 for weight in rule.get_weights()])
    nominal = evaluation.nominal_spec(trained)
    for ours, theirs in zip(
        nominal.make_rule(9).get_weights(), rule.get_weights()
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert nominal.key != evaluation.learned_spec(trained).key


def test_an_untrained_rule_is_not_run_twice():
    def names():
        return list(evaluation.benchmark_specs("it", rule))

    rule = rules.Hierarchical(units=4, coordinate_units=3, seed=1)
    assert names() == ["it", "it, total steps"]
    rule.set_weights([weight + 1.0 for weight in rule.get_weights()])
    assert names() == ["it", "it, total steps", "it, nominal"]


def test_a_cosine_multiplies_the_updates():
    rule = evaluation.OPTIMIZERS["Muon+cosine"].make_rule(4)
    constant = rules.Muon(0.5)
    rule.learning_rate.assign(0.5)
    parameters = [tf.zeros([2])]
    states = [r.initial_state(parameters) for r in (rule, constant)]
    for step in range(6):
        gradient = [tf.ones([2])]
        (ours,), states[0] = rule(gradient, parameters, states[0])
        (theirs,), states[1] = constant(gradient, parameters, states[1])
        scale = 0.5 * (1.0 + np.cos(np.pi * min(step / 4, 1.0)))
        np.testing.assert_allclose(ours, scale * theirs, rtol=1e-5, atol=1e-7)


def test_the_command_names_what_there_is(tmp_path, capsys):
    arguments = ["benchmark", "--tasks", "nothing", "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "mnist-mlp" in capsys.readouterr().err
