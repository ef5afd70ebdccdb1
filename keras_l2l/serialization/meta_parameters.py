"""The meta-parameters of a rule: their names, bytes and digest."""

import hashlib
import re

import numpy as np

SEPARATOR = "__"


def named_variables(rule):
    """The variables of a rule by names that are stable within it.

    Args:
        rule: A `keras.layers.Layer`.

    Returns:
        Dict from names to Keras variables.
    """
    named: dict = {}
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


def to_bytes(rule):
    """The values of all meta-parameters, one after the other, as bytes."""
    return b"".join(value.tobytes() for value in rule.get_weights())


def digest(rule):
    """SHA-256 of the meta-parameters.

    Args:
        rule: A `keras.layers.Layer`.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(to_bytes(rule)).digest()


def names_of_non_finite(values):
    """Names of the arrays that hold NaN or infinity.

    Args:
        values: Dict from names to arrays.

    Returns:
        List of strings.
    """
    return [k for k, value in values.items() if not np.isfinite(value).all()]
