"""What a recipe of a meta-training is, as plain data."""

import dataclasses
from typing import Any

Arguments = dict[str, Any] | tuple[dict[str, Any], ...]


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
        estimator: String, the name of an estimator.
        stddev: Float, of the perturbations of evolution strategies.
        imitation_rate: Float, the `rate` of `Imitation`, with Adam as the
            teacher. 0 for none.
        teacher_rate: Float. The learning rate of the teacher.
        optimizees: Integer. Optimizees in an outer step.
        loss_weights: String. The weights w_t of the meta-loss: `"equal"`;
            `"root"`, to √t; `"linear"`, to t, which counts the end of an
            episode for more than its beginning; `"quadratic"`, to t²; or
            `"ends"`, which grow with the cube of the position in an unroll,
            so that an unroll is judged by where it leads and not by how fast,
            and from unroll to unroll by half of the first.
        second_derivatives: Boolean, see `TruncatedBackpropagation`.
        coordinate_share: Float, see `TruncatedBackpropagation`.
        clipnorm: Float or `None`, see `MetaTrainer`.
        epochs: Integer.
        steps_per_epoch: Integer. Outer steps in an epoch.
        learning_rate: Float. First rate of the meta-optimizer, Adam.
        beta_2: Float, of the meta-optimizer.
        decay_epochs: Integer. Length of a cosine along which the rate decays.
        final_rate: Float. The rate at the end of the cosine over the first.
        validation_freq: Integer. In epochs. The stage ends with the best
            meta-parameters. 0 has no validation, and ends with the last.
        seed: Integer, added to the recipe's for the episodes of this stage.
    """

    horizon: int | tuple[int, int] | None = None
    curriculum: tuple[int, ...] = ()
    unroll: int = 20
    tasks_per_step: int | None = None
    loss_transform: str = "identity"
    estimator: str = "TruncatedBackpropagation"
    stddev: float = 0.01
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
    decay_epochs: int = 20
    final_rate: float = 0.01
    validation_freq: int = 1
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a meta-training depends on. Plain data: a manifest holds it.

    Attributes:
        name: String.
        description: String, one sentence.
        rule: String, the name of a class of `keras_l2l.rules`.
        rule_arguments: Dict, its arguments. Of `Grouped`, `rules` are dicts
            with a `rule` and `arguments`, again.
        task: String, the name of a function or class of `keras_l2l.tasks`; or
            a tuple of them, all of whose tasks are trained on.
        task_arguments: Dict, its arguments; or a tuple of them.
        augmentations: Dict from names of augmentations of `keras_l2l.tasks` to
            dicts, their arguments. Each training task is put into the first,
            that into the next.
        horizon: Integer or pair of integers, see `MetaTrainer`.
        stages: Tuple of `Stage`s. Each starts with the meta-parameters with
            which the one before ended.
        global_clipnorm: Float. Largest norm of a mean meta-gradient.
        validation_task: As `task`; `None` has fresh optimizees of the training
            tasks.
        validation_arguments: As `task_arguments`.
        validation_horizon: Integer or `None`, see `MetaTrainer.fit`.
        validation_episodes: Integer.
        jit_compile: Boolean, see `MetaTrainer.compile`.
        seed: Integer. Of the rule's initialisation and of all episodes.
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
    jit_compile: bool = False
    seed: int = 0
    score_task: str | None = None
    score_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    score_steps: tuple[int, ...] = (100, 200)
