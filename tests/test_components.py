"""The table of components is complete, and the imports keep their order."""

import ast
import inspect
import pathlib

import pytest

import keras_l2l
from keras_l2l import meta_gradients, rules, tasks
from tests import components

PACKAGE = pathlib.Path(keras_l2l.__file__).parent

# Lowest first: a module imports only what stands before it.
ORDER = (
    "checks",
    "packaged_files",
    "execution",
    "serialization",
    "rules",
    "presets",
    "optimizers",
    "tasks",
    "inner_loop",
    "meta_gradients",
    "meta_training",
    "evaluation",
    "reports",
    "reproduction",
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
            meta_gradients,
            meta_gradients.MetaGradientEstimator,
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
    assert _public_classes(module, base) == tested, (
        "A public class needs a line in tests/components.py."
    )


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
    allowed = {*ORDER[: ORDER.index(room) + 1]}
    if room == "tasks":
        allowed = {"checks", "tasks"}  # Tasks never know of rules.
    assert set(_imports(path)) <= allowed
