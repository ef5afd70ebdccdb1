"""What a recipe can name: the package's own rules, tasks and estimators."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from keras_l2l import checks, rules, tasks
from keras_l2l.meta_gradients.base import MetaGradientEstimator
from keras_l2l.meta_gradients.evolution_strategies import (
    AntitheticES,
    PersistentES,
)
from keras_l2l.meta_gradients.imitation import Imitation
from keras_l2l.meta_gradients.meta_loss import TRANSFORMS
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from keras_l2l.reproduction.recipe import Recipe, Stage

_ABSTRACT = (rules.UpdateRule, rules.CoordinatewiseRule, tasks.Task)

ESTIMATORS: dict[str, Callable[[Stage], MetaGradientEstimator]] = {
    "TruncatedBackpropagation": lambda stage: TruncatedBackpropagation(
        second_derivatives=stage.second_derivatives,
        coordinate_share=stage.coordinate_share,
        vectorize=stage.vectorize,
        # Recipes older than vectorising were trained without XLA.
        jit_compile=stage.vectorize and stage.jit_compile,
        clipnorm=stage.clipnorm if stage.vectorize else None,
    ),
    "PersistentES": lambda stage: PersistentES(
        stage.stddev,
        jit_compile=stage.jit_compile,
        vectorize=stage.vectorize,
        meta_parameters=stage.meta_parameters or None,
    ),
    "AntitheticES": lambda stage: AntitheticES(
        stage.stddev,
        jit_compile=stage.jit_compile,
        vectorize=stage.vectorize,
        meta_parameters=stage.meta_parameters or None,
    ),
}


def _public(module: Any) -> dict[str, Callable[..., Any]]:
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        name: made
        for name, made in found.items()
        if callable(made) and made not in _ABSTRACT
    }


RULES = {
    name: rule
    for name, rule in _public(rules).items()
    if isinstance(rule, type) and issubclass(rule, rules.UpdateRule)
}
AUGMENTATIONS = {
    name: augment
    for name, augment in _public(tasks).items()
    if "task" in inspect.signature(augment).parameters
}
TASKS = {
    name: make
    for name, make in _public(tasks).items()
    if name not in AUGMENTATIONS
}


def check(recipe: Recipe) -> None:
    """Checks each name in a recipe before anything is built.

    Args:
        recipe: A `Recipe`.

    Raises:
        ValueError: If one is unknown. The error names the key, what was
            expected and what was received.
    """
    _check_rule("rule", recipe.rule, recipe.rule_arguments)
    _check_tasks("task", recipe.task, recipe.task_arguments)
    if recipe.validation_task is not None:
        _check_tasks(
            "validation_task",
            recipe.validation_task,
            recipe.validation_arguments,
        )
    if recipe.score_task is not None:
        _check_tasks("score_task", recipe.score_task, recipe.score_arguments)
    for name, arguments in recipe.augmentations.items():
        _check_name("augmentations", name, AUGMENTATIONS)
        parameters = _parameters(AUGMENTATIONS[name]) - {"task"}
        _check_arguments(f"augmentations.{name}", arguments, parameters)
    for index, stage in enumerate(recipe.stages):
        for key, known in (
            ("estimator", ESTIMATORS),
            ("loss_transform", TRANSFORMS),
        ):
            _check_name(f"stages[{index}].{key}", getattr(stage, key), known)


def make_rule(
    name: str, arguments: Mapping[str, Any], seed: int
) -> rules.UpdateRule:
    """Makes a rule that has not been trained.

    Args:
        name: String, a key of `RULES`.
        arguments: Dict, its arguments, see `Recipe`.
        seed: Integer. Seeds its meta-parameters, if they are random.

    Returns:
        An `UpdateRule`.
    """
    arguments = dict(arguments)
    if "rules" in arguments:  # each with meta-parameters of its own
        arguments["rules"] = {
            key: make_rule(of["rule"], of.get("arguments", {}), seed + 1000 * i)
            for i, (key, of) in enumerate(arguments["rules"].items())
        }
    if "seed" in _parameters(RULES[name]):
        arguments["seed"] = seed
    return _made("rule_arguments", RULES[name], arguments)


def make_tasks(key: str, names: str | tuple[str, ...], arguments: Any) -> Any:
    """Makes the tasks that a recipe names.

    Args:
        key: String, the key of the recipe that names them.
        names: String, a key of `TASKS`, or a tuple of them.
        arguments: Dict, its arguments, or a tuple of them.

    Returns:
        A `Task`, or a list of them.
    """
    if isinstance(names, str):
        return _made(_arguments_key(key), TASKS[names], arguments)
    made = [
        make_tasks(key, *pair) for pair in zip(names, arguments, strict=True)
    ]
    # Some make lists of tasks themselves.
    return keras.tree.flatten(made)


def augment(task: Any, augmentations: Mapping[str, dict[str, Any]]) -> Any:
    """Wraps a task, or each of a list, in augmentations.

    Args:
        task: A `Task`, or a list of them.
        augmentations: Dict from keys of `AUGMENTATIONS` to their arguments.
            The first is the innermost.

    Returns:
        A `Task`, or a list of them.
    """
    if isinstance(task, list):
        return [augment(one, augmentations) for one in task]
    for name, arguments in augmentations.items():
        key = f"augmentations.{name}"
        task = _made(key, AUGMENTATIONS[name], {"task": task, **arguments})
    return task


def make_estimator(stage: Stage) -> MetaGradientEstimator:
    """Makes the estimator of a stage, with its teacher if it has one.

    Args:
        stage: A `Stage`.

    Returns:
        A `MetaGradientEstimator`.
    """
    estimator = ESTIMATORS[stage.estimator](stage)
    if stage.imitation_rate:
        teacher = rules.Adam(stage.teacher_rate)
        return Imitation(estimator, teacher, stage.imitation_rate)
    return estimator


def _check_rule(key: str, name: Any, arguments: Any) -> None:
    _check_name(key, name, RULES)
    key = _arguments_key(key)
    _check_arguments(key, arguments, _parameters(RULES[name]) - {"seed"})
    if name != "Grouped":
        return
    for member, of in _table(f"{key}.rules", arguments.get("rules")).items():
        where = f"{key}.rules.{member}"
        _check_arguments(where, of, {"rule", "arguments"})
        _check_rule(f"{where}.rule", of.get("rule"), of.get("arguments", {}))


def _check_tasks(key: str, names: Any, arguments: Any) -> None:
    arguments_key = _arguments_key(key)
    if isinstance(names, str):
        _check_name(key, names, TASKS)
        _check_arguments(arguments_key, arguments, _parameters(TASKS[names]))
        return
    if not isinstance(arguments, tuple) or len(arguments) != len(names):
        raise ValueError(
            f"Key `{arguments_key}` must be an array of {len(names)} tables, "
            f"one for each of `{key}`. Received: {arguments!r}"
        )
    for name, of in zip(names, arguments):
        _check_tasks(key, name, of)


def _check_name(key: str, name: Any, known: Iterable[str]) -> None:
    known = sorted(known)
    if name not in known:
        raise ValueError(
            f"Key `{key}` must be one of {known}. Received: {name!r}."
            f"{checks.did_you_mean(name, known)}"
        )


def _check_arguments(key: str, arguments: Any, known: set[str]) -> None:
    for name in _table(key, arguments):
        if name not in known:
            raise ValueError(
                f"Key `{key}.{name}` is unknown. It must be one of "
                f"{sorted(known)}.{checks.did_you_mean(name, known)}"
            )


def _table(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"Key `{key}` must be a table. Received: {value!r}")
    return value


def _arguments_key(key: str) -> str:
    """`rule` to `rule_arguments`, `validation_task` to its arguments."""
    if key.endswith(".rule"):
        return key.removesuffix("rule") + "arguments"
    if key in ("validation_task", "score_task"):
        return key.replace("task", "arguments")
    return f"{key}_arguments"


def _parameters(made: Callable[..., Any]) -> set[str]:
    """The names of all arguments, those of a class's parents included."""
    functions: list[Callable[..., Any]] = [made]
    if isinstance(made, type):
        functions = [
            parent.__dict__["__init__"]
            for parent in made.__mro__
            if parent.__module__.startswith("keras_l2l")
            and "__init__" in parent.__dict__
        ]
    return {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
        and parameter.kind
        in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _made(
    key: str, make: Callable[..., Any], arguments: Mapping[str, Any]
) -> Any:
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{key}`: {error}") from error
