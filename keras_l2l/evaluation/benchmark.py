"""The benchmark: a learned rule against others on unseen tasks at real size.

Every run is a file, so that a benchmark goes on where it was stopped, and
the baselines, which never change, are trained once.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_l2l import rules
from keras_l2l.evaluation.comparison import EpisodeRunner
from keras_l2l.evaluation.learning_rate_sweep import final_score, sweep
from keras_l2l.optimizers.schedules import Cooldown
from keras_l2l.serialization.meta_parameters import digest
from keras_l2l.tasks.base import episode_seed

_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_RATES_OF_DESCENT = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
# Relative, of first losses that should be the same but for rounding.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer of the benchmark.

    Attributes:
        make_rule: Function from a number of steps to an `UpdateRule`.
        learning_rates: Tuple of floats that are swept; empty for a rule that
            is taken as it is.
        key: String that tells it from others of its name, whose runs are
            kept apart.
    """

    make_rule: Callable[[int], Any]
    learning_rates: tuple[float, ...] = ()
    key: str = ""


CONTENDERS = {
    "NAG": Contender(
        lambda steps: rules.Momentum(momentum=0.9, nesterov=True),
        _RATES_OF_DESCENT,
    ),
    "RMSprop": Contender(lambda steps: rules.RMSprop(), _RATES),
    "Adam": Contender(lambda steps: rules.Adam(), _RATES),
    "AdamW+cosine": Contender(
        lambda steps: rules.AdamW(decay_steps=steps), _RATES
    ),
    "Adam, untuned": Contender(lambda steps: rules.Adam()),
    "Nadam, untuned": Contender(lambda steps: rules.Nadam()),
    # At the defaults of their authors, as implemented in optax.
    "Prodigy, untuned": Contender(lambda steps: rules.Prodigy()),
    "Schedule-Free AdamW, untuned": Contender(
        lambda steps: rules.ScheduleFreeAdamW()
    ),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """The runs of one optimizer on one task.

    Attributes:
        task: String.
        optimizer: String.
        learning_rate: Float, the one that was swept; `None` without a sweep.
        on_border: Boolean. Whether the sweep ended on the border of its grid.
        losses: Array `[S, steps + 1]`, of each seed, before each step and
            after the last.
        test_losses: Array `[S]`, on held-out data after the last step.
    """

    task: str
    optimizer: str
    learning_rate: float | None
    on_border: bool
    losses: np.ndarray
    test_losses: np.ndarray

    @property
    def final_losses(self):
        """Array `[S]`: mean training loss of the last tenth of the steps."""
        return np.array([final_score(losses) for losses in self.losses])

    @property
    def mean_losses(self):
        """Array `[S]`: mean training loss of all steps."""
        means = self.losses.mean(1)
        return np.where(np.isfinite(self.final_losses), means, math.inf)

    def steps_to(self, loss):
        """Steps until the training loss is as low as `loss`.

        The training loss is taken as the mean over a twentieth of the steps.

        Args:
            loss: Float.

        Returns:
            An integer; `None` if it never is.
        """
        curve = self.losses.mean(0)
        window = max(1, (len(curve) - 1) // 20)
        means = np.convolve(curve, np.ones(window) / window, "valid")
        reached = np.flatnonzero(means <= loss)
        return int(reached[0]) + window if len(reached) else None


class Benchmark:
    """Trains optimizers on test tasks, and keeps each run in a file.

    The learning rate of a contender is swept on optimizees that the
    comparison does not see; then all train the same ones: same
    initialisations, same batches, same number of steps.

    Args:
        suite: Dict from names to `keras_l2l.tasks.benchmark_suite.SuiteTask`s.
        directory: Where the runs are kept.
        seeds: Integer. Runs of each optimizer on each task.
            Defaults to `5`.
        sweep_seeds: Integer. Runs for each learning rate of a sweep.
            Defaults to `2`.
        seed: Integer, from which the seeds of all runs derive.
            Defaults to `0`.
        progress: Function called with a line of text before each run.
            Defaults to `None`.
    """

    def __init__(
        self, suite, directory, seeds=5, sweep_seeds=2, seed=0, progress=None
    ):
        self.suite = suite
        self.directory = pathlib.Path(directory)
        self.seeds = [episode_seed(seed, "test", i) for i in range(seeds)]
        self._sweep_seeds = [
            episode_seed(seed, "sweep", i) for i in range(sweep_seeds)
        ]
        self._progress = progress or (lambda text: None)
        self._task = (None, None)
        self._first_losses: dict[Any, Any] = {}

    def result(self, task, optimizer, contender):
        """The runs of an optimizer on a task, trained if need be.

        Args:
            task: String, a name of the suite.
            optimizer: String.
            contender: A `Contender`.

        Returns:
            A `Result`.

        Raises:
            ValueError: If a run that was kept cannot be read, or began
                otherwise than others of its seed.
        """
        steps = self.suite[task].steps
        rule = contender.make_rule(steps)
        episodes = None
        directory = self.directory / task / _file_name(optimizer, contender)
        rate, on_border = None, False

        def train(seed):
            nonlocal episodes
            if episodes is None:
                episodes = EpisodeRunner(rule, self._made(task), (steps,))
            return episodes.run(seed)

        def run(seed):
            name = f"{seed}" if rate is None else f"{rate:.3g}-{seed}"
            path = directory / f"{name}.json"
            result = self._run(path, steps, functools.partial(train, seed))
            self._check_first_loss(task, seed, path, result["losses"][0])
            return result

        if contender.learning_rates:

            def score(learning_rate):
                nonlocal rate
                rate = learning_rate
                rule.learning_rate.assign(rate)
                runs = [run(seed) for seed in self._sweep_seeds]
                return float(np.mean([final_score(r["losses"]) for r in runs]))

            found = sweep(optimizer, contender.learning_rates, score)
            rate, on_border = found.best, found.on_border
            rule.learning_rate.assign(rate)
        runs = [run(seed) for seed in self.seeds]
        return Result(
            task=task,
            optimizer=optimizer,
            learning_rate=rate,
            on_border=on_border,
            losses=np.stack([r["losses"] for r in runs]),
            test_losses=np.array([r["test_loss"] for r in runs]),
        )

    def results(self, contenders):
        """The runs of all contenders on all tasks.

        Args:
            contenders: Dict from names to `Contender`s.

        Returns:
            List of `Result`, task by task.
        """
        return [
            self.result(task, name, contender)
            for task in self.suite
            for name, contender in contenders.items()
        ]

    def _run(self, path, steps, train):
        """What the file of a run says, which is written if need be."""
        if path.exists():
            try:
                run = _arrays(json.loads(path.read_text()))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"The run {str(path)!r} cannot be read: {error!r}. Delete "
                    "it to train it again."
                ) from error
            if len(run["losses"]) == steps + 1:
                return run
        self._progress(str(path.relative_to(self.directory)))
        losses, test_losses = train()
        document = {
            "losses": [_rounded(loss) for loss in losses],
            "test_loss": _rounded(test_losses[-1]),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(document, allow_nan=False))
        os.replace(temporary, path)
        return _arrays(document)

    def _check_first_loss(self, task, seed, path, loss):
        """All runs of a seed have one initialisation and one first batch."""
        expected, other = self._first_losses.setdefault(
            (task, seed), (loss, path)
        )
        if not np.isclose(loss, expected, _TOLERANCE, 0.0, equal_nan=True):
            raise ValueError(
                f"The runs {str(other)!r} and {str(path)!r} of the task "
                f"{task!r} have one seed, so they should begin with one loss. "
                f"Received: {expected:.7g} and {loss:.7g}. The task has "
                "changed since one of them was trained. Delete the directory "
                f"of that one, or all of {str(self.directory / task)!r}, to "
                "train it again."
            )

    def _made(self, task):
        """The task, of which one is held at a time: data can be large."""
        if self._task[0] != task:
            self._task = (task, self.suite[task].make())
        return self._task[1]


def learned_contender(rule, is_told=False):
    """A learned rule as a contender.

    Args:
        rule: An `UpdateRule`.
        is_told: Boolean. Whether it is told the number of steps, as by
            `L2LOptimizer(total_steps=…)`. Defaults to `False`.

    Returns:
        A `Contender`.
    """
    # Another rule of the same name has runs of its own.
    key = digest(rule).hex()[:8]
    if is_told:
        # And so has one with another schedule.
        schedule = Cooldown(1.0, total_steps=1)
        return Contender(
            lambda steps: _Until(rule.copy(), steps),
            key=f"{key}-{schedule.name}-{schedule.share:g}",
        )
    return Contender(lambda steps: rule.copy(), key=key)


class _Until(rules.UpdateRule):
    """A rule with the schedule of `L2LOptimizer(total_steps=…)`."""

    def __init__(self, rule, steps):
        super().__init__()
        self._rule = rule
        self._schedule = Cooldown(1.0, steps)

    def initial_state(self, parameters):
        return self.named_initial_state(parameters, None)

    def named_initial_state(self, parameters, paths):
        local, shared = self._rule.named_initial_state(parameters, paths)
        return rules.RuleState(local, (shared, ops.zeros((), "float32")))

    def call(self, gradients, parameters, state):
        shared, step = state.shared
        updates, (local, shared) = self._rule(
            gradients, parameters, rules.RuleState(state.local, shared)
        )
        scale = self._schedule(step)
        updates = [u * ops.cast(scale, u.dtype) for u in updates]
        return updates, rules.RuleState(local, (shared, step + 1.0))


def _file_name(optimizer, contender):
    name = "-".join(filter(None, (optimizer, contender.key)))
    return re.sub(r"[^\w+.-]+", "-", name)


def _rounded(loss):
    """Seven digits, as many as float32 has; `None` for what is no number."""
    return float(f"{loss:.7g}") if math.isfinite(loss) else None


def _arrays(document):
    losses = [math.nan if x is None else x for x in document["losses"]]
    test_loss = document["test_loss"]
    return {
        "losses": np.array(losses),
        "test_loss": math.inf if test_loss is None else test_loss,
    }
