"""The meta-parameters of a rule: their names, shapes and bytes."""

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_l2l.serialization.errors import format_error

SEPARATOR = "__"


def named_variables(rule: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Names the variables of a rule, stably within it.

    Args:
        rule: A `keras.layers.Layer`.

    Returns:
        Dict from names to Keras variables.
    """
    named: dict[str, keras.Variable] = {}
    for variable in rule.weights:
        # Outer name scopes and the rule's own name say where it was made.
        path = variable.path.split("/")
        if rule.name in path:
            path = path[path.index(rule.name) + 1 :]
        name = re.sub(r"\W", "_", SEPARATOR.join(path))
        while name in named:  # Two nested rules may have one name.
            name += SEPARATOR
        named[name] = variable
    return named


def describe(variables: Mapping[str, keras.Variable]) -> list[dict[str, Any]]:
    """Describes variables as a manifest does.

    Args:
        variables: Dict from names to Keras variables.

    Returns:
        List of dicts with `"name"`, `"shape"` (a list) and `"dtype"`.
    """
    return [
        {"name": name, "shape": list(variable.shape), "dtype": variable.dtype}
        for name, variable in variables.items()
    ]


def to_bytes(rule: keras.layers.Layer) -> bytes:
    """Joins the bytes of all meta-parameters."""
    return b"".join(value.tobytes() for value in rule.get_weights())


def names_of_non_finite(values: Mapping[str, np.ndarray]) -> list[str]:
    """Names the arrays that hold NaN or infinity.

    Args:
        values: Dict from names to arrays.

    Returns:
        List of strings.
    """
    return [k for k, value in values.items() if not np.isfinite(value).all()]


def check_same(received, expected, where):
    """Compares what variables a file has with those that it must have.

    Args:
        received: Dict from names to `(shape, dtype)`.
        expected: Dict from names to `(shape, dtype)`.
        where: String, what holds those that were received.

    Raises:
        RuleFormatError: If they differ.
    """
    problems = [
        f"{name!r}: expected {expected.get(name, 'no such variable')}, "
        f"received {received.get(name, 'none')}"
        for name in sorted(expected.keys() | received.keys())
        if expected.get(name) != received.get(name)
    ]
    if problems:
        raise format_error(
            f"the variables of the rule in {where}", "; ".join(problems)
        )
