"""What is compared: optimizers, with the learning rates to try."""

import dataclasses
import re
from collections.abc import Callable

import keras
from keras import ops

from keras_l2l import rules
from keras_l2l.evaluation.learning_rate_sweep import rate_grid
from keras_l2l.optimizers.schedules import Cooldown
from keras_l2l.rules import UpdateRule
from keras_l2l.serialization.digest import digest


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer of a comparison: its rule, and the learning rates to try.

    Attributes:
        make_rule: Function from the number of steps of a run, which schedules
            need, to an `UpdateRule`. With learning rates to try the rule must
            have a variable `learning_rate`.
        learning_rates: Tuple of floats, ascending. The grid is extended where
            the best lies on its border. Empty for an optimizer that is taken
            as it is. Defaults to `()`.
        key: String. Distinguishes the kept runs of optimizers that have one
            name. Defaults to `""`.

    Example:

    >>> spec = OptimizerSpec(lambda steps: rules.SGD(), (0.01, 0.1, 1.0))
    """

    make_rule: Callable[[int], UpdateRule]
    learning_rates: tuple[float, ...] = ()
    key: str = ""

    def file_name(self, name: str) -> str:
        """The name of the directory of this optimizer's kept runs.

        Args:
            name: String, what the optimizer is called.

        Returns:
            A string without separators of paths.
        """
        name = "-".join(filter(None, (name, self.key)))
        return re.sub(r"[^\w+.-]+", "-", name)


_GRADIENT_DESCENT = rate_grid(1e-3, 1.0)
_ADAPTIVE = rate_grid(1e-4, 0.1)


def _nag(steps):
    return rules.Momentum(momentum=0.9, nesterov=True)


def _cosine(steps):
    return keras.optimizers.schedules.CosineDecay(1.0, steps)


# Every hand-designed optimizer that rules are compared with.
OPTIMIZERS = {
    "SGD": OptimizerSpec(lambda steps: rules.SGD(), _GRADIENT_DESCENT),
    "NAG": OptimizerSpec(_nag, _GRADIENT_DESCENT),
    "RMSprop": OptimizerSpec(lambda steps: rules.RMSprop(), _ADAPTIVE),
    "Adam": OptimizerSpec(lambda steps: rules.Adam(), _ADAPTIVE),
    "AdamW+cosine": OptimizerSpec(
        lambda steps: rules.AdamW(decay_steps=steps), _ADAPTIVE
    ),
    "Muon": OptimizerSpec(lambda steps: rules.Muon(), _ADAPTIVE),
    "Muon+cosine": OptimizerSpec(
        lambda steps: _WithSchedule(rules.Muon(), _cosine(steps)), _ADAPTIVE
    ),
    "SOAP": OptimizerSpec(lambda steps: rules.SOAP(), _ADAPTIVE),
    "Schedule-Free AdamW": OptimizerSpec(
        lambda steps: rules.ScheduleFreeAdamW(), _ADAPTIVE
    ),
    "Adam, untuned": OptimizerSpec(lambda steps: rules.Adam()),
    "Nadam, untuned": OptimizerSpec(lambda steps: rules.Nadam()),
    # At the defaults of their authors, as implemented in optax.
    "Prodigy, untuned": OptimizerSpec(lambda steps: rules.Prodigy()),
    "Schedule-Free AdamW, untuned": OptimizerSpec(
        lambda steps: rules.ScheduleFreeAdamW()
    ),
}

# The four of the paper, which `compare` tunes on a grid of three to a decade.
BASELINES = {
    name: dataclasses.replace(
        OPTIMIZERS[name], learning_rates=rate_grid(*bounds, (1, 2, 5))
    )
    for name, bounds in {
        "SGD": (0.01, 10.0),
        "NAG": (0.01, 10.0),
        "RMSprop": (1e-4, 0.5),
        "Adam": (1e-4, 0.5),
    }.items()
}

# Those of the benchmark: momentum is better than its absence everywhere.
BENCHMARK_OPTIMIZERS = {
    name: spec for name, spec in OPTIMIZERS.items() if name != "SGD"
}


def learned_spec(rule: UpdateRule, has_cooldown: bool = False) -> OptimizerSpec:
    """Describes a learned rule, taken as it is.

    Args:
        rule: An `UpdateRule`.
        has_cooldown: Boolean. Whether it is told the number of steps, as by
            `L2LOptimizer(total_steps=…)`. Defaults to `False`.

    Returns:
        An `OptimizerSpec`. Its key is a digest of the rule, so that another
        rule of the same name has kept runs of its own.
    """
    key = digest(rule).hex()[:8]
    if not has_cooldown:
        return OptimizerSpec(lambda steps: rule.copy(), key=key)
    schedule = Cooldown(1.0, total_steps=1)
    return OptimizerSpec(
        lambda steps: _WithSchedule(rule.copy(), Cooldown(1.0, steps)),
        key=f"{key}-{schedule.name}-{schedule.share:g}",
    )


def nominal_spec(rule: UpdateRule) -> OptimizerSpec:
    """Describes a learned rule with untrained meta-parameters.

    Args:
        rule: An `UpdateRule`.

    Returns:
        An `OptimizerSpec`.
    """
    return learned_spec(type(rule).from_config(rule.get_config()))


def benchmark_specs(name: str, rule: UpdateRule) -> dict[str, OptimizerSpec]:
    """What a benchmark shows of a learned rule.

    Args:
        name: String, what the rule is called.
        rule: An `UpdateRule`.

    Returns:
        Dict from names to `OptimizerSpec`s: the rule, the rule that is told
        the number of steps, and, unless it is the same, the rule with
        untrained meta-parameters.
    """
    learned, nominal = learned_spec(rule), nominal_spec(rule)
    specs = {
        name: learned,
        f"{name}, total steps": learned_spec(rule, has_cooldown=True),
    }
    if nominal.key != learned.key:
        specs[f"{name}, nominal"] = nominal
    return specs


class _WithSchedule(UpdateRule):
    """A rule whose updates are multiplied by a schedule."""

    def __init__(self, rule, schedule):
        super().__init__()
        self._rule = rule
        self._schedule = schedule

    @property
    def learning_rate(self):
        """The variable that is swept, of a rule that has one."""
        return self._rule.learning_rate

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

    def evaluation_parameters(self, parameters, state):
        state = rules.RuleState(state.local, state.shared[0])
        return self._rule.evaluation_parameters(parameters, state)
