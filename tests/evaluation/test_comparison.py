import csv
import functools
import json
import math

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import evaluation, rules, tasks
from keras_l2l.evaluation import Comparison, OptimizerSpec, Record
from keras_l2l.evaluation.results import CSV_COLUMNS
from keras_l2l.inner_loop.episode import start
from keras_l2l.tasks.base import episode_seed
from tests import components

# Its traces and gradients take no time.
SMALL = {"steps": 6, "seeds": 3, "sweep_seeds": 2}


def tuned(make_rule, *rates):
    return OptimizerSpec(lambda steps: make_rule(), rates)


SGD = {"SGD": tuned(rules.SGD, 1e-3, 1e-2, 1e-1)}
RIVAL = {"rival": tuned(rules.RMSprop, 1e-3, 1e-2, 1e-1)}


class Bowl(tasks.Task):
    """θ²/2 from θ = 1: SGD with rate 1 is there in one step."""

    def __init__(self):
        super().__init__("bowl")
        self.seeds = []

    def initial_parameters(self, seed):
        self.seeds.append(int(seed))
        return [tf.ones([1])], []

    def sample_batch(self, seed):
        return ()

    def loss(self, parameters, model_state, batch):
        return tf.reduce_sum(parameters[0] ** 2) / 2, model_state

    def test_loss(self, parameters, model_state):
        return float(self.loss(parameters, model_state, ())[0])


class Shrinking(tasks.Quadratic):
    """Counts how often the loss is traced."""

    traces = 0

    def loss(self, parameters, model_state, batch):
        self.traces += 1
        return super().loss(parameters, model_state, batch)


@functools.cache
def small_comparison():
    return evaluation.compare(
        rules.Adam(0.1),
        tasks.Quadratic(2),
        test_every=4,
        baselines=RIVAL,
        name="mine",
        **SMALL,
    )


@functools.cache
def diverged_comparison():
    """A baseline that has nothing but hopeless learning rates."""
    return evaluation.compare(
        rules.SGD(1e-3),
        Bowl(),
        baselines={"hopeless": tuned(rules.SGD, 1e30, 1e32)},
        **SMALL,
    )


def test_learning_curves_of_a_known_run():
    curves = evaluation.learning_curves(
        rules.SGD(0.5), Bowl(), [3, 4], steps=5, test_every=2
    )
    losses = 0.5 * 0.25 ** np.arange(6)
    np.testing.assert_allclose(curves.losses, [losses, losses], rtol=1e-6)
    np.testing.assert_allclose(
        curves.test_losses, [losses[[2, 4, 5]]] * 2, rtol=1e-6
    )


@pytest.mark.parametrize("test_every", [None, 3, 4, 100])
def test_chunks_do_not_change_the_curve(test_every):
    task, rule = tasks.digits_mlp(units=2), rules.Adam(0.1)
    whole = evaluation.learning_curves(rule, task, [5], 8)
    parts = evaluation.learning_curves(rule, task, [5], 8, test_every)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-5)
    np.testing.assert_allclose(
        parts.test_losses[:, -1], whole.test_losses[:, -1], rtol=1e-5
    )


def test_the_test_loss_is_taken_where_the_rule_says():
    task = components.TASKS["KerasTask-mlp"]()
    rule = rules.ScheduleFreeAdamW(0.05, beta_1=0.5)
    _, ((received,),) = evaluation.learning_curves(rule, task, [5], 8)
    # Parameter by parameter, where the unroll has all in one vector.
    parameters, model_state = task.initial_parameters(5)
    state = rule.initial_state(parameters)
    for step in range(8):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            batch = task.sample_batch([5, step])
            loss, model_state = task.loss(parameters, model_state, batch)
        gradients = tape.gradient(loss, parameters)
        updates, state = rule(gradients, parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
    averages = rule.evaluation_parameters(parameters, state)
    expected = task.test_loss(averages, model_state)
    assert received == pytest.approx(expected, rel=1e-4)
    assert received != pytest.approx(
        task.test_loss(parameters, model_state), rel=1e-2
    )


def test_recorded_steps():
    assert evaluation.recorded_steps(100) == (100,)
    assert evaluation.recorded_steps(100, 50) == (50, 100)
    assert evaluation.recorded_steps(100, 40) == (40, 80, 100)
    assert evaluation.recorded_steps(3, 40) == (3,)


def test_no_retrace_over_seeds_and_learning_rates():
    def traces(seeds, sweep_seeds, rates):
        task = Shrinking(2)
        result = evaluation.compare(
            rules.SGD(1e-3),
            task,
            steps=4,
            seeds=seeds,
            sweep_seeds=sweep_seeds,
            baselines={"SGD": tuned(rules.SGD, *rates)},
        )
        # What is not traced is `test_loss`, once a run.
        tried = len(result.sweeps[0].learning_rates)
        return task.traces - 2 * seeds - tried * sweep_seeds

    few = traces(1, 1, (1e-3, 1e-2, 1e-1))
    assert traces(4, 3, (1e-4, 1e-3, 1e-2, 1e-1)) == few


def test_identical_rules_have_identical_curves():
    def comparison(rate):
        task = tasks.digits_mlp(units=2)
        return evaluation.compare(rules.SGD(rate), task, baselines=SGD, **SMALL)

    best = comparison(1.0).sweeps[0].best
    result = comparison(best)
    ours, theirs = (result.records_of(name) for name in result.optimizers)
    assert [r.losses for r in ours] == [r.losses for r in theirs]
    assert [r.test_losses for r in ours] == [r.test_losses for r in theirs]
    gap = result.summaries()[1].final_loss_difference
    assert gap.mean == gap.in_paired_standard_errors == 0.0


def test_all_optimizers_share_initialisations_and_batches():
    result = small_comparison()
    ours, theirs = (result.records_of(name) for name in ("mine", "rival"))
    assert [r.seed for r in ours] == [r.seed for r in theirs]
    assert [r.losses[0] for r in ours] == [r.losses[0] for r in theirs]
    assert len({r.losses[0] for r in ours}) == SMALL["seeds"]
    assert ours[0].learning_rate is None
    assert theirs[0].learning_rate == result.sweeps[0].best
    assert list(ours[0].test_losses) == [4, 6]
    # On a quadratic the test loss is the loss itself.
    for record in result.records:
        assert record.test_losses[4] == pytest.approx(record.losses[4])


def test_tuning_and_comparison_see_different_episodes():
    task = Bowl()
    evaluation.compare(rules.SGD(1e-3), task, baselines=SGD, seed=7, **SMALL)
    tuning = {episode_seed(7, "sweep", i) for i in range(2)}
    comparing = {episode_seed(7, "test", i) for i in range(3)}
    assert not tuning & comparing
    assert set(task.seeds) - {0} == tuning | comparing


def test_records_can_be_repeated_from_their_seed():
    record = small_comparison().records[0]
    task = tasks.Quadratic(2)
    carry = start(rules.Adam(), task, record.seed)
    parameters = [tf.reshape(carry.parameters[0], (1, 2))]
    loss, _ = task.loss(parameters, carry.model_state, ())
    assert float(loss) == record.losses[0]


def test_the_sweep_finds_the_known_optimum():
    result = evaluation.compare(
        rules.SGD(1e-3),
        Bowl(),
        baselines={"SGD": tuned(rules.SGD, 0.03, 0.1, 1.0, 1.7, 2.5)},
        **SMALL,
    )
    (found,) = result.sweeps
    assert found.best == 1.0
    assert not found.on_border
    assert result.records_of("SGD")[0].final_loss == 0.0


def test_diverging_rates_are_never_selected():
    result = evaluation.compare(
        rules.SGD(1e-3),
        Bowl(),
        baselines={"SGD": tuned(rules.SGD, 0.1, 0.5, 1e30)},
        **SMALL,
    )
    assert result.sweeps[0].scores[-1] == math.inf
    assert result.sweeps[0].best == 0.5


def test_divergence_is_reported():
    result = diverged_comparison()
    learned, hopeless = result.summaries()
    assert learned.diverged == 0
    assert hopeless.diverged == hopeless.runs == SMALL["seeds"]
    assert math.isnan(hopeless.final_loss.mean)
    assert math.isnan(hopeless.final_loss_difference.mean)
    assert result.sweeps[0].on_border


@pytest.mark.parametrize(
    ("last", "test_loss"), [(1e9, 1.0), (1.0, 1e9), (1.0, math.nan)]
)
def test_a_run_that_explodes_has_diverged(last, test_loss):
    record = Record("t", "o", 0.1, 0, (1.0, last), {1: test_loss})
    assert record.diverged
    result = Comparison("t", "o", 1, 0, "", (), (record,))
    (summary,) = result.summaries()
    assert summary.diverged == 1
    assert math.isnan(summary.final_loss.mean)
    json.dumps(result.to_dict(), allow_nan=False)


def test_summaries():
    result = small_comparison()
    mine, rival = result.summaries()
    finals = [record.final_loss for record in result.records_of("rival")]
    assert (mine.optimizer, rival.optimizer) == result.optimizers
    assert rival.final_loss.mean == pytest.approx(np.mean(finals))
    assert rival.final_loss_difference.mean == pytest.approx(
        rival.final_loss.mean - mine.final_loss.mean
    )
    assert list(rival.test_loss_differences) == [4, 6]
    assert mine.final_loss_difference is None
    assert mine.test_loss_differences == {}


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("make", [small_comparison, diverged_comparison])
def test_json_is_strict(tmp_path, make):
    result = make()
    result.write_json(tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    document = json.loads(text, parse_constant=refuse)
    assert document["selection"] == evaluation.SELECTION
    assert len(document["records"]) == 2 * SMALL["seeds"]
    last = document["records"][-1]
    assert last["final_loss"] == last["losses"][-1]
    assert last["diverged"] == (make is diverged_comparison)
    assert (last["final_loss"] is None) == last["diverged"]
    assert list(last["test_losses"])[-1] == "6"
    assert document["summaries"][1]["optimizer"] == last["optimizer"]


def test_csv(tmp_path):
    result = small_comparison()
    result.write_csv(tmp_path / "c.csv")
    with open(tmp_path / "c.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len(rows) == len(result.records) * (SMALL["steps"] + 1)
    first, last = result.records[0], result.records[-1]
    assert rows[0]["learning_rate"] == rows[0]["test_loss"] == ""
    assert float(rows[0]["loss"]) == first.losses[0]
    assert rows[-1]["optimizer"] == "rival"
    assert float(rows[-1]["learning_rate"]) == last.learning_rate
    assert int(rows[-1]["step"]) == 6
    assert int(rows[-1]["seed"]) == last.seed
    assert float(rows[-1]["test_loss"]) == last.test_losses[6]


def test_several_learned_rules_against_one_sweep():
    task = Bowl()
    calls = []
    result = evaluation.compare(
        {"fast": rules.SGD(0.5), "slow": rules.SGD(0.1)},
        task,
        baselines=SGD,
        progress=lambda *call: calls.append(call),
        **SMALL,
    )
    assert result.optimizers == ("fast", "slow", "SGD")
    assert result.learned == "fast"
    assert len(result.sweeps) == 1
    assert calls[-1][1] == calls[-1][2]
    fast, slow, _ = result.summaries()
    assert fast.final_loss.mean == pytest.approx(0.5**13)
    assert slow.final_loss.mean == pytest.approx(0.9**12 / 2)
    assert slow.final_loss_difference.mean > 0
    seeds = [[r.seed for r in result.records_of(n)] for n in result.optimizers]
    assert seeds[0] == seeds[1] == seeds[2]


def test_progress_ends_at_its_total():
    calls = []
    evaluation.compare(
        rules.SGD(1e-3),
        Bowl(),
        baselines={"SGD": tuned(rules.SGD, 0.01, 0.1)},  # is extended
        progress=lambda *call: calls.append(call),
        **SMALL,
    )
    names, done, totals = zip(*calls)
    assert list(done) == list(range(1, len(calls) + 1))
    assert done[-1] == totals[-1] > totals[0]
    assert set(names) == {"bowl: learned", "bowl: SGD"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "`steps` must be a positive"),
        ({"seeds": -1}, ValueError, "Received: seeds=-1"),
        ({"sweep_seeds": 1.5}, ValueError, "`sweep_seeds`"),
        ({"test_every": 0}, ValueError, "`test_every`"),
        ({"name": "SGD"}, ValueError, "`name` must differ"),
        ({"rule": "adam"}, TypeError, "must be a `UpdateRule`"),
        ({"rule": {}}, TypeError, "must be a `UpdateRule`"),
        ({"rule": {"a": "adam"}}, TypeError, "must be a `UpdateRule`"),
        ({"rule": {"SGD": rules.SGD()}}, ValueError, "`name` must differ"),
        ({"task": "digits"}, TypeError, "must be a `Task`"),
        ({"baselines": {"a": rules.SGD}}, TypeError, "a `OptimizerSpec`"),
        (
            {"baselines": {"a": OptimizerSpec(lambda _: None)}},
            TypeError,
            "must make an `UpdateRule`",
        ),
    ],
)
def test_compare_says_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluation.compare(**{"rule": rules.SGD(), "task": Bowl(), **arguments})


def test_learning_curves_needs_seeds():
    with pytest.raises(ValueError, match="at least one"):
        evaluation.learning_curves(rules.SGD(), Bowl(), [], 3)
