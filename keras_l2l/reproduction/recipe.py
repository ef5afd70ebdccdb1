"""A recipe: all that a meta-training depends on, as plain data."""

import dataclasses
from typing import Any

from keras_l2l import checks

Arguments = dict[str, Any] | tuple[dict[str, Any], ...]

LOSS_WEIGHTS = ("equal", "root", "linear", "quadratic", "ends")


def _check(argument: str, value: object, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise ValueError(
            f"Argument `{argument}` must be {expected}. "
            f"Received: {argument}={value!r}"
        )


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a meta-training, with a meta-optimizer of its own.

    Attributes:
        horizon: Integer or pair of integers, see `MetaTrainer`; `None` has
            that of the recipe.
        curriculum: Tuple of integers, the `horizons` of a `Curriculum`, in
            place of the horizon. Empty for none.
        unroll: Integer. Inner steps in an outer step.
        tasks_per_step: Integer or `None`, see `MetaTrainer`.
        loss_transform: String, see `MetaTrainer`.
        log_floor: Float, see `MetaTrainer`.
        meta_loss: String or float, see `MetaTrainer`.
        estimator: String: `"TruncatedBackpropagation"`, `"PersistentES"` or
            `"AntitheticES"`.
        stddev: Float. Standard deviation of the perturbations of evolution
            strategies.
        jit_compile: Boolean, of evolution strategies and of vectorised second
            derivatives. Whether XLA compiles the unroll: on a processor, its
            convolutions are slow.
        vectorize: Boolean, of evolution strategies and second derivatives.
        meta_parameters: Strings, of evolution strategies: the names of those
            that are trained. Defaults to none, which trains all.
        imitation_rate: Float in [0, 1), the `rate` of `Imitation`, with Adam
            as the teacher. 0 for none.
        teacher_rate: Float. The learning rate of the teacher.
        optimizees: Integer. Optimizees of each task in an outer step.
        loss_weights: String. The weights w_t of the meta-loss: `"equal"`;
            `"root"`, proportional to √t; `"linear"`, to t, so that the end
            of an episode counts more than its beginning; `"quadratic"`, to
            t²; or `"ends"`, which grow with the cube of the position in an
            unroll, so that an unroll is judged by where it leads, and by
            half of the first from unroll to unroll.
        second_derivatives: Boolean, see `TruncatedBackpropagation`.
        coordinate_share: Float in (0, 1], see `TruncatedBackpropagation`.
        clipnorm: Float or `None`, see `MetaTrainer`.
        epochs: Integer.
        steps_per_epoch: Integer. Outer steps in an epoch.
        learning_rate: Float. First rate of the meta-optimizer, Adam.
        beta_2: Float in [0, 1), of the meta-optimizer.
        ema_momentum: Float in [0, 1), of the moving average of the
            meta-parameters, by which validation and export go. 0 for none.
        decay_epochs: Integer. Length of the cosine along which the rate
            decays.
        final_rate: Float. The rate at the end of the cosine, as a fraction
            of the first.
        validation_freq: Integer. In epochs. The stage ends with the best
            meta-parameters. 0 has no validation, and ends with the last.
        seed: Integer, added to the recipe's for the episodes of this stage.
    """

    horizon: int | tuple[int, int] | None = None
    curriculum: tuple[int, ...] = ()
    unroll: int = 20
    tasks_per_step: int | None = None
    loss_transform: str = "identity"
    log_floor: float = 0.01
    meta_loss: str | float = "training"
    estimator: str = "TruncatedBackpropagation"
    stddev: float = 0.01
    jit_compile: bool = True
    vectorize: bool = False
    meta_parameters: tuple[str, ...] = ()
    imitation_rate: float = 0.0
    teacher_rate: float = 0.01
    optimizees: int = 2
    loss_weights: str = "equal"
    second_derivatives: bool = False
    coordinate_share: float = 1.0
    clipnorm: float | None = None
    epochs: int = 20
    steps_per_epoch: int = 50
    learning_rate: float = 1e-3
    beta_2: float = 0.999
    ema_momentum: float = 0.0
    decay_epochs: int = 20
    final_rate: float = 0.01
    validation_freq: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        checks.positive_integer_fields(
            self,
            *("unroll", "optimizees", "epochs"),
            *("steps_per_epoch", "decay_epochs"),
        )
        checks.positive_numbers(
            stddev=self.stddev,
            log_floor=self.log_floor,
            teacher_rate=self.teacher_rate,
            learning_rate=self.learning_rate,
            clipnorm=1.0 if self.clipnorm is None else self.clipnorm,
        )
        checks.fractions(
            imitation_rate=self.imitation_rate,
            beta_2=self.beta_2,
            ema_momentum=self.ema_momentum,
        )
        _check(
            "final_rate", self.final_rate, self.final_rate >= 0, "at least 0"
        )
        _check(
            "coordinate_share",
            self.coordinate_share,
            0 < self.coordinate_share <= 1,
            "in the range (0, 1]",
        )
        _check(
            "validation_freq",
            self.validation_freq,
            self.validation_freq >= 0,
            "at least 0",
        )
        _check(
            "curriculum",
            self.curriculum,
            not self.curriculum or self.validation_freq > 0,
            "empty where `validation_freq` is 0: validation moves it on",
        )
        _check(
            "loss_weights",
            self.loss_weights,
            self.loss_weights in LOSS_WEIGHTS,
            f"one of {list(LOSS_WEIGHTS)}",
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a meta-training depends on. Plain data: a manifest holds it.

    Attributes:
        name: String.
        description: String, one sentence.
        rule: String, the name of a class of `keras_l2l.rules`.
        rule_arguments: Dict, its arguments. Those of `Grouped` have, as
            `rules`, a dict of dicts with a `rule` and its `arguments`.
        task: String, the name of a function or class of `keras_l2l.tasks`; or
            a tuple of them, all of whose tasks are trained on.
        task_arguments: Dict, its arguments; or a tuple of them, one for each
            task.
        augmentations: Dict from names of augmentations of `keras_l2l.tasks` to
            dicts, their arguments. The first wraps each training task, the
            next wraps the result.
        horizon: Integer or pair of integers, see `MetaTrainer`.
        stages: Tuple of `Stage`s. Each starts with the meta-parameters with
            which the one before ended.
        global_clipnorm: Float. Largest norm of a mean meta-gradient.
        validation_task: As `task`; `None` has fresh optimizees of the training
            tasks.
        validation_arguments: As `task_arguments`.
        validation_horizon: Integer or `None`, see `MetaTrainer.fit`.
        validation_episodes: Integer.
        validation_loss: String, float or `None`, see `MetaTrainer.fit`.
        jit_compile: Boolean, see `MetaTrainer.compile`.
        seed: Integer. Seeds the rule's initialisation and all episodes.
        score_task: String, as `task`; `None` has the task itself, without
            its augmentations.
        score_arguments: Dict, its arguments.
        score_steps: Tuple of integers. The inner steps after which the
            loss on the task's test data is a score.
    """

    name: str
    description: str
    rule: str
    task: str | tuple[str, ...]
    rule_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    task_arguments: Arguments = dataclasses.field(default_factory=dict)
    augmentations: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    stages: tuple[Stage, ...] = (Stage(),)
    horizon: int | tuple[int, int] = 100
    global_clipnorm: float = 1.0
    validation_task: str | tuple[str, ...] | None = None
    validation_arguments: Arguments = dataclasses.field(default_factory=dict)
    validation_horizon: int | None = None
    validation_episodes: int = 8
    validation_loss: str | float | None = None
    jit_compile: bool = False
    seed: int = 0
    score_task: str | None = None
    score_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    score_steps: tuple[int, ...] = (100, 200)

    def __post_init__(self) -> None:
        checks.positive_integer_fields(self, "validation_episodes")
        if self.validation_horizon is not None:
            checks.positive_integer_fields(self, "validation_horizon")
        checks.positive_numbers(global_clipnorm=self.global_clipnorm)
        _check("seed", self.seed, self.seed >= 0, "at least 0")
        _check("stages", self.stages, bool(self.stages), "at least one stage")
        _check(
            "score_steps",
            self.score_steps,
            bool(self.score_steps) and min(self.score_steps) > 0,
            "one or more positive integers",
        )
