"""The harness: several optimizers on one task, on the same optimizees."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_l2l import checks
from keras_l2l.evaluation.episode_runner import (
    EpisodeRunner,
    check_type,
    recorded_steps,
)
from keras_l2l.evaluation.learning_rate_sweep import CRITERIA, sweep
from keras_l2l.evaluation.optimizer_spec import (
    BASELINES,
    OptimizerSpec,
    learned_spec,
)
from keras_l2l.evaluation.results import Comparison, Record
from keras_l2l.evaluation.run_cache import RunCache
from keras_l2l.evaluation.statistics import final_score
from keras_l2l.rules import UpdateRule
from keras_l2l.tasks import Task
from keras_l2l.tasks.base import episode_seed


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long, how often and from which seeds optimizers are run.

    Attributes:
        steps: Integer. Inner steps of a run.
        seeds: Integer. Runs of each optimizer. Defaults to `10`.
        sweep_seeds: Integer. Runs for each learning rate of a sweep, on
            optimizees that the comparison does not see. Defaults to `5`.
        test_every: Integer. The loss on held-out data is taken each time this
            number of steps is done, and after the last. Defaults to `None`,
            after the last alone.
        seed: Non-negative integer, from which the seeds of all runs derive.
            Defaults to `0`.
        criterion: String, one of `CRITERIA`: the loss by which learning rates
            are chosen. Defaults to `"training"`.
    """

    steps: int
    seeds: int = 10
    sweep_seeds: int = 5
    test_every: int | None = None
    seed: int = 0
    criterion: str = "training"

    def __post_init__(self):
        checks.positive_integer_fields(self, "steps", "seeds", "sweep_seeds")
        if self.test_every is not None:
            checks.positive_integer_fields(self, "test_every")
        if self.criterion not in CRITERIA:
            raise ValueError(
                f"Argument `criterion` must be one of {list(CRITERIA)}. "
                f"Received: criterion={self.criterion!r}"
            )

    def episode_seeds(self, stream: str) -> list[int]:
        """The seeds of the runs of the stream `"test"` or `"sweep"`."""
        count = self.seeds if stream == "test" else self.sweep_seeds
        return [episode_seed(self.seed, stream, i) for i in range(count)]

    def run_count(self, optimizers: Mapping[str, OptimizerSpec]) -> int:
        """How many runs there are, unless a grid is extended."""
        rates = sum(len(spec.learning_rates) for spec in optimizers.values())
        return rates * self.sweep_seeds + len(optimizers) * self.seeds


class Progress:
    """Counts runs, and tells a function after each that was trained."""

    def __init__(
        self, function: Callable[[str, int, int], Any] | None, total: int
    ):
        self.total = total
        self._function = function
        self._done = 0

    def count(self, run: str, is_kept: bool = False) -> None:
        """Counts a run, which was there already if it is a kept one."""
        self._done += 1
        if self._function is not None and not is_kept:
            self._function(run, self._done, self.total)


def compare(
    rule: UpdateRule | dict[str, UpdateRule],
    task: Task,
    steps: int = 100,
    seeds: int = 10,
    sweep_seeds: int = 5,
    test_every: int | None = None,
    seed: int = 0,
    baselines: dict[str, OptimizerSpec] | None = None,
    name: str = "learned",
    progress: Callable[[str, int, int], Any] | None = None,
    cache_dir: Any = None,
) -> Comparison:
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
        baselines: Dict from names to `OptimizerSpec`s. Defaults to `None`,
            the table `BASELINES`.
        name: String. What to call a learned rule that has no name yet.
            Defaults to `"learned"`.
        progress: Function `(run, done, total)`, called after each run that
            was trained: with the names of its task and optimizer, with the
            number of runs that are done and with that of all. The total grows
            where a grid is extended. Defaults to `None`.
        cache_dir: String or path of a directory in which the runs are kept,
            so that a comparison that was stopped goes on. One task, one
            directory. Defaults to `None`: they are not kept.

    Returns:
        A `Comparison`.

    Raises:
        TypeError: If the rule, the task or a baseline is none.
        ValueError: If a number is not positive, a name is taken, or a kept
            run is damaged or of another task.

    Example:

    >>> comparison = compare(
    ...     {"mine": rule},
    ...     task,
    ...     steps=5,
    ...     seeds=2,
    ...     baselines={"SGD": OptimizerSpec(lambda steps: rules.SGD())},
    ... )
    >>> [summary.optimizer for summary in comparison.summaries()]
    ['mine', 'SGD']
    >>> comparison.write_csv("curves.csv")
    """
    baselines = BASELINES if baselines is None else baselines
    learned: dict[str, Any] = (
        rule if isinstance(rule, dict) and rule else {name: rule}
    )
    optimizers = {}
    for name, value in learned.items():
        check_type("rule", value, UpdateRule)
        if name in baselines:
            raise ValueError(
                "Argument `name` must differ from the names of the baselines "
                f"{list(baselines)}. Received: name={name!r}"
            )
        optimizers[name] = learned_spec(value)
    check_type("task", task, Task)
    for name, spec in baselines.items():
        check_type(f"baselines[{name!r}]", spec, OptimizerSpec)
    optimizers |= baselines
    plan = Plan(steps, seeds, sweep_seeds, test_every, seed)
    return compare_optimizers(
        optimizers,
        task.name,
        lambda: task,
        plan,
        RunCache(cache_dir),
        Progress(progress, plan.run_count(optimizers)),
    )


def compare_optimizers(
    optimizers: Mapping[str, OptimizerSpec],
    task_name: str,
    make_task: Callable[[], Task],
    plan: Plan,
    cache: RunCache,
    progress: Progress,
) -> Comparison:
    """Trains several optimizers on the same optimizees of one task.

    The first of them is the one with which the others are compared. The task
    is made if there is a run that is not in the cache.
    """
    rules = {
        name: _make_rule(name, spec, plan.steps)
        for name, spec in optimizers.items()
    }
    make_task = functools.cache(make_task)
    records, sweeps = [], []
    for name, spec in optimizers.items():
        runs = _OptimizerRuns(
            *(name, spec, rules[name], task_name, make_task),
            *(plan, cache, progress),
        )
        rate = None
        if spec.learning_rates:
            sweeps.append(runs.sweep())
            rate = sweeps[-1].best
        records += runs.records(rate)
    return Comparison(
        task=task_name,
        learned=next(iter(optimizers)),
        steps=plan.steps,
        seed=plan.seed,
        selection=CRITERIA[plan.criterion],
        sweeps=tuple(sweeps),
        records=tuple(records),
    )


@dataclasses.dataclass
class _OptimizerRuns:
    """The runs of one optimizer on one task, kept or trained."""

    name: str
    spec: OptimizerSpec
    rule: UpdateRule
    task_name: str
    make_task: Callable[[], Task]
    plan: Plan
    cache: RunCache
    progress: Progress

    def sweep(self):
        """The `Sweep` of the learning rate."""
        seeds = self.plan.episode_seeds("sweep")
        recorded = recorded_steps(self.plan.steps)

        def score(rate):
            if rate not in self.spec.learning_rates:
                self.progress.total += len(seeds)
            runs = [self._run(rate, seed, recorded) for seed in seeds]
            return float(np.mean([self._score(run) for run in runs]))

        return sweep(self.name, self.spec.learning_rates, score)

    def records(self, rate):
        """List of `Record`s, one a seed of the comparison."""
        recorded = recorded_steps(self.plan.steps, self.plan.test_every)
        records = []
        for seed in self.plan.episode_seeds("test"):
            run = self._run(rate, seed, recorded)
            records.append(
                Record(
                    task=self.task_name,
                    optimizer=self.name,
                    learning_rate=rate,
                    seed=seed,
                    losses=tuple(run.losses.tolist()),
                    test_losses={s: run.test_losses[s] for s in recorded},
                    test_accuracies={
                        s: run.test_accuracies[s]
                        for s in recorded
                        if s in run.test_accuracies
                    },
                    seconds=run.seconds,
                    cpu_seconds=run.cpu_seconds,
                )
            )
        return records

    def _score(self, run):
        score = final_score(run.losses)
        if self.plan.criterion == "held-out" and np.isfinite(score):
            score = run.test_losses[self.plan.steps]
        return score if np.isfinite(score) else np.inf

    def _run(self, rate, seed, recorded):
        place = self.spec.file_name(self.name), rate, seed
        run = self.cache.load(*place, recorded)
        is_kept = run is not None
        if run is None:
            if rate is not None:
                self.rule.learning_rate.assign(rate)
            run = self._episodes.run(seed, recorded)
            run = self.cache.save(*place, run)
        self.progress.count(f"{self.task_name}: {self.name}", is_kept)
        return run

    @functools.cached_property
    def _episodes(self):
        return EpisodeRunner(self.rule, self.make_task())


def _make_rule(name, spec, steps):
    rule = spec.make_rule(steps)
    if not isinstance(rule, UpdateRule) or (
        spec.learning_rates and not hasattr(rule, "learning_rate")
    ):
        raise TypeError(
            f"Argument `baselines[{name!r}]` must make an `UpdateRule`, with "
            "a variable `learning_rate` if there are learning rates to try. "
            f"Received: {rule!r}"
        )
    return rule
