"""Learning curves of a rule against tuned baselines."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_l2l import checks, rules
from keras_l2l.evaluation.learning_rate_sweep import (
    SELECTION,
    final_score,
    sweep,
)
from keras_l2l.evaluation.results import Comparison, Record
from keras_l2l.inner_loop.unroll import compile_unroll, start, unpack
from keras_l2l.rules import UpdateRule
from keras_l2l.tasks import Task
from keras_l2l.tasks.base import episode_seed


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A hand-designed rule and the learning rates to try.

    Attributes:
        make_rule: Function from a learning rate to an `UpdateRule` with a
            variable `learning_rate`.
        learning_rates: Tuple of floats, ascending. The grid is extended
            where the best lies on its border.
    """

    make_rule: Callable[[float], Any]
    learning_rates: tuple[float, ...]


_RATES_OF_GRADIENT_DESCENT = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0),
)
_RATES_OF_ADAPTIVE_RULES = (
    *(1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
)

BASELINES = {
    "SGD": Baseline(rules.SGD, _RATES_OF_GRADIENT_DESCENT),
    "NAG": Baseline(
        functools.partial(rules.Momentum, momentum=0.9, nesterov=True),
        _RATES_OF_GRADIENT_DESCENT,
    ),
    "RMSprop": Baseline(rules.RMSprop, _RATES_OF_ADAPTIVE_RULES),
    "Adam": Baseline(rules.Adam, _RATES_OF_ADAPTIVE_RULES),
}


class LearningCurves(NamedTuple):
    """Training runs of one rule, one for each seed.

    Attributes:
        losses: Array `[S, steps + 1]`, before each update and after the last,
            each on the batch of that step.
        test_losses: Array `[S, n]`, on held-out data, at the `n` steps of
            `recorded_steps(steps, test_every)`.
    """

    losses: np.ndarray
    test_losses: np.ndarray


def learning_curves(rule, task, seeds, steps, test_every=None):
    """Trains an optimizee for each seed and returns its losses.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        seeds: Sequence of integers in [0, 2³¹). Each fixes an initialisation
            and all batches; see `keras_l2l.tasks.base.episode_seed`.
        steps: Integer. Inner steps.
        test_every: Integer. Takes the loss on held-out data after each so
            many steps, and after the last. Defaults to `None`, after the
            last alone.

    Returns:
        A `LearningCurves`.

    Example:

    >>> curves = learning_curves(rule, tasks.digits_mlp(), range(10), 100)
    >>> curves.losses.shape, curves.test_losses.shape
    ((10, 101), (10, 1))
    """
    _check_type("rule", rule, UpdateRule)
    _check_type("task", task, Task)
    seeds = list(seeds)
    if not seeds:
        raise ValueError(
            "Argument `seeds` must hold at least one integer. "
            f"Received: seeds={seeds}"
        )
    episodes = EpisodeRunner(rule, task, recorded_steps(steps, test_every))
    runs = [episodes.run(seed) for seed in seeds]
    return LearningCurves(*(np.stack(arrays) for arrays in zip(*runs)))


def recorded_steps(steps, test_every=None):
    """The steps after which the loss on held-out data is taken.

    Args:
        steps: Integer. Inner steps of a run.
        test_every: Integer, or `None` for the last step alone.
            Defaults to `None`.

    Returns:
        Tuple of integers, the last of which is `steps`.

    Example:

    >>> recorded_steps(100, 40)
    (40, 80, 100)
    """
    checks.positive_integers(steps=steps)
    if test_every is None:
        return (steps,)
    checks.positive_integers(test_every=test_every)
    return (*range(test_every, steps, test_every), steps)


def compare(
    rule,
    task,
    steps=100,
    seeds=10,
    sweep_seeds=5,
    test_every=None,
    seed=0,
    baselines=None,
    name="learned",
    progress=None,
):
    """Compares learned rules with hand-designed ones, fairly.

    The learning rate of each baseline is tuned first, on optimizees that the
    comparison does not see; `SELECTION` says how. A grid whose best rate lies
    on its border is extended by half decades. Then each optimizer trains the
    same optimizees: same initialisations, same batches.

    Args:
        rule: An `UpdateRule`, the learned one; or a dict from names to several,
            with the first of which everything is compared.
        task: A `Task`.
        steps: Integer. Inner steps of a run. Defaults to `100`.
        seeds: Integer. Runs of each optimizer. Defaults to `10`.
        sweep_seeds: Integer. Runs for each learning rate of a sweep.
            Defaults to `5`.
        test_every: Integer; see `learning_curves`. Defaults to `None`.
        seed: Non-negative integer, from which the seeds of all runs derive.
            Defaults to `0`.
        baselines: Dict from names to `Baseline`s. Defaults to `None`, the
            table `BASELINES`.
        name: String. What to call a learned rule that has no name yet.
            Defaults to `"learned"`.
        progress: Function `(optimizer, done, total)`, called after each run
            with the name of its optimizer and with how many runs are done, of
            how many. The total grows where a grid is extended.
            Defaults to `None`.

    Returns:
        A `Comparison`.

    Raises:
        TypeError: If the rule, the task or a baseline is none.
        ValueError: If a number is not positive, or a name is taken.

    Example:

    >>> comparison = compare(presets.load(), tasks.digits_mlp())
    >>> for summary in comparison.summaries():
    ...     print(summary.optimizer, summary.final_loss.mean)
    >>> comparison.write_csv("curves.csv")
    """
    baselines = BASELINES if baselines is None else baselines
    learned = rule if isinstance(rule, dict) and rule else {name: rule}
    for name, rule in learned.items():
        _check_type("rule", rule, UpdateRule)
        if name in baselines:
            raise ValueError(
                "Argument `name` must differ from the names of the baselines "
                f"{list(baselines)}. Received: name={name!r}"
            )
    _check_type("task", task, Task)
    checks.positive_integers(seeds=seeds)
    checks.positive_integers(sweep_seeds=sweep_seeds)
    recorded = recorded_steps(steps, test_every)
    tuned = {k: _rule_of(k, baseline) for k, baseline in baselines.items()}
    rates = sum(len(b.learning_rates) for b in baselines.values())
    counter = _Counter(
        progress,
        rates * sweep_seeds + (len(baselines) + len(learned)) * seeds,
    )
    test_seeds = [episode_seed(seed, "test", i) for i in range(seeds)]
    tuning_seeds = [episode_seed(seed, "sweep", i) for i in range(sweep_seeds)]
    records, sweeps = [], []
    for name, rule in learned.items():
        episodes = EpisodeRunner(rule, task, recorded)
        records += _records(name, None, episodes, test_seeds, counter)
    for optimizer, baseline in baselines.items():
        episodes = EpisodeRunner(tuned[optimizer], task, recorded)
        score = _scorer(optimizer, baseline, episodes, tuning_seeds, counter)
        found = sweep(optimizer, baseline.learning_rates, score)
        episodes.rule.learning_rate.assign(found.best)
        records += _records(
            optimizer, found.best, episodes, test_seeds, counter
        )
        sweeps.append(found)
    return Comparison(
        task=task.name,
        learned=next(iter(learned)),
        steps=steps,
        seed=seed,
        selection=SELECTION,
        sweeps=tuple(sweeps),
        records=tuple(records),
    )


class _Counter:
    """Counts runs and tells the user's function."""

    def __init__(self, progress, expected):
        self.expected = expected
        self._progress = progress
        self._done = 0

    def count(self, optimizer):
        self._done += 1
        if self._progress is not None:
            self._progress(optimizer, self._done, self.expected)


class EpisodeRunner:
    """Trains optimizees of a task by a rule, with one graph for all seeds.

    The learning rate of a rule is a variable, so a sweep keeps the graph.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        recorded: Tuple of integers, from `recorded_steps`.
    """

    def __init__(self, rule, task, recorded):
        self.rule = rule
        self.task = task
        self.recorded = recorded
        self._lengths = np.diff([0, *recorded]).tolist()
        self._unroll = compile_unroll(rule, task)

    def run(self, seed, test=True):
        """One training run.

        Args:
            seed: Integer in [0, 2³¹).
            test: Boolean. Whether to take the losses on held-out data.
                Defaults to `True`.

        Returns:
            Tuple of arrays `(losses, test_losses)`, float64.
        """
        carry = start(self.rule, self.task, seed)
        losses, test_losses = [], []
        for length in self._lengths:
            carry, part = self._unroll(carry, length)
            *before, last = part.losses.numpy().astype("float64")
            losses += before  # The last is the first of the next part.
            if test:
                test_losses.append(self._test(carry))
        return np.array([*losses, last]), np.array(test_losses, "float64")

    def _test(self, carry):
        parameters = self.rule.evaluation_parameters(
            carry.parameters, carry.rule_state
        )
        parameters = unpack(self.rule, self.task, parameters)
        return self.task.test_loss(parameters, carry.model_state)


def _records(optimizer, learning_rate, episodes, seeds, counter):
    """List of `Record`s, one a seed."""
    records = []
    for seed in seeds:
        losses, test_losses = episodes.run(seed)
        counter.count(optimizer)
        records.append(
            Record(
                task=episodes.task.name,
                optimizer=optimizer,
                learning_rate=learning_rate,
                seed=seed,
                losses=tuple(losses.tolist()),
                test_losses=dict(zip(episodes.recorded, test_losses.tolist())),
            )
        )
    return records


def _scorer(optimizer, baseline, episodes, seeds, counter):
    """A function from a learning rate to its mean score over the seeds."""

    def score(learning_rate):
        if learning_rate not in baseline.learning_rates:
            counter.expected += len(seeds)
        episodes.rule.learning_rate.assign(learning_rate)
        scores = []
        for seed in seeds:
            losses, _ = episodes.run(seed, test=False)
            counter.count(optimizer)
            scores.append(final_score(losses))
        return float(np.mean(scores))

    return score


def _rule_of(name, baseline):
    """The rule of a baseline, at its first learning rate."""
    _check_type(f"baselines[{name!r}]", baseline, Baseline)
    if not baseline.learning_rates:
        raise ValueError(
            f"Argument `baselines[{name!r}]` must have at least one learning "
            f"rate. Received: {baseline}"
        )
    rule = baseline.make_rule(baseline.learning_rates[0])
    if not isinstance(rule, UpdateRule) or not hasattr(rule, "learning_rate"):
        raise TypeError(
            f"Argument `baselines[{name!r}]` must make an `UpdateRule` with a "
            f"variable `learning_rate`. Received: {rule!r}"
        )
    return rule


def _check_type(argument, value, expected):
    if not isinstance(value, expected):
        raise TypeError(
            f"Argument `{argument}` must be a `{expected.__name__}`. "
            f"Received: {argument}={value!r}"
        )
