"""The table of components is complete, and the imports keep their order."""

import ast
import inspect
import pathlib
import types

import pytest

import keras_l2l
from keras_l2l import evolution, imitation, meta_gradient, rules, tasks
from tests import components

PACKAGE = pathlib.Path(keras_l2l.__file__).parent

# Lowest first: a module imports only what stands before it.
ORDER = (
    "checks",
    "features",
    "orthogonal",
    "kept",
    "layout",
    "rules",
    "manifest",
    "saving",
    "presets",
    "rule_config",
    "cooldown",
    "traced",
    "blocks",
    "slots",
    "strategies",
    "guard",
    "optimizer",
    "tasks",
    "side_by_side",
    "recording",
    "coordinates",
    "lanes",
    "compiled",
    "unroll",
    "meta_loss",
    "through_updates",
    "second_derivatives",
    "meta_gradient",
    "evolution",
    "imitation",
    "groups",
    "outer_step",
    "outer_loop",
    "curriculum",
    "meta_arguments",
    "validation",
    "backup",
    "meta_trainer",
    "sweep",
    "comparison",
    "evaluation",
    "proposals",
    "benchmark",
    "benchmark_summary",
    "plotting",
    "proposal_plots",
    "benchmark_plots",
    "recipe",
    "recipes",
    "recipe_runner",
    "inspection",
    "report",
    "experiments",
    "benchmark_report",
    "cli",
)


def _public_classes(module, base):
    return {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and not inspect.isabstract(value)
        and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("module", "base", "table"),
    [
        (rules, rules.UpdateRule, components.RULES),
        (tasks, tasks.Task, components.TASKS),
        (
            types.SimpleNamespace(
                **vars(meta_gradient) | vars(evolution) | vars(imitation)
            ),
            meta_gradient.MetaGradientEstimator,
            components.ESTIMATORS,
        ),
    ],
    ids=["rules", "tasks", "estimators"],
)
def test_every_public_class_is_in_the_table(module, base, table):
    tested = {
        type(factory()).__name__
        for name, factory in table.items()
        if name not in components.NEEDS_DATA
    }
    assert _public_classes(module, base) == tested


def _imports(path):
    """Names of this package's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "keras_l2l" and len(parts) > 1:
                yield parts[1]


def _rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.name != "__init__.py" or len(relative.parts) > 1:
            yield relative.parts[0].removesuffix(".py"), path


def test_every_module_has_its_place():
    assert {room for room, _ in _rooms()} <= set(ORDER)


@pytest.mark.parametrize(
    ("room", "path"),
    [
        pytest.param(*pair, id=str(pair[1].relative_to(PACKAGE)))
        for pair in _rooms()
    ],
)
def test_imports_go_downwards(room, path):
    # `rule.export` is a method of a rule for the user's sake; what it calls
    # stands above.
    allowed = {*ORDER[: ORDER.index(room) + 1]}
    if path.name == "base.py" and room == "rules":
        allowed.add("saving")
    if room == "tasks":
        allowed = {"checks", "tasks"}  # Tasks never know of rules.
    assert set(_imports(path)) <= allowed
