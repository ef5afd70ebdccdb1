"""Bounds the variables of a rule that is built from a file.

A configuration from a file can ask for any sizes. The file also holds the
values, so a rule may have the variables that are stored, and no more: whoever
builds it from a file sets a budget, and each meta-parameter is checked
against it before it is allocated. A configuration with impossible sizes thus
fails at its first surplus variable, whatever the class of the rule.
"""

import collections
import contextlib
import contextvars
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

# A variable takes a millisecond to make. The shipped rules have at most 12.
MAX_VARIABLES = 1000

# The name of a dtype with its bits: "int8", "bfloat16", "float8_e5m2".
_NUMBER = re.compile(r"(?:u?int|b?float)(\d+)(?:_\w+)?")

# Called with the name, shape and dtype of a variable; raises to refuse it.
Budget = Callable[[str | None, tuple[int, ...], str], None]

_budget: contextvars.ContextVar[Budget | None] = contextvars.ContextVar(
    "variable_budget", default=None
)


class BudgetError(ValueError):
    """A rule asks for a variable that its file does not hold."""


@contextlib.contextmanager
def variable_budget(budget: Budget | None) -> Iterator[None]:
    """Checks each meta-parameter that is made in the block.

    Args:
        budget: `stored_variables(…)`, `stored_bytes(…)`, or `None` for no
            bound.
    """
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


def check_budget(name: str | None, shape: Any, dtype: Any) -> None:
    """Refuses a variable beyond the budget, if there is one.

    Args:
        name: String or `None`.
        shape: Sequence of integers; `None` is a scalar.
        dtype: A dtype or its name.

    Raises:
        BudgetError: If no such variable is left.
    """
    budget = _budget.get()
    if budget is not None:
        budget(name, tuple(shape or ()), keras.backend.standardize_dtype(dtype))


def stored_variables(variables: Sequence[dict[str, Any]]) -> Budget:
    """Allows variables of the listed shapes and dtypes, each once.

    Args:
        variables: Sequence of dicts with `"shape"` and `"dtype"`, as in a
            manifest.
    """
    left = collections.Counter(
        (tuple(variable["shape"]), variable["dtype"]) for variable in variables
    )

    def spend(name, shape, dtype):
        if not left[shape, dtype]:
            raise BudgetError(
                f"variable {name!r} of shape {shape} and dtype {dtype}, "
                "which is not stored"
            )
        left[shape, dtype] -= 1

    return spend


def stored_bytes(size: int) -> Budget:
    """Allows variables of so many bytes in all.

    Args:
        size: Integer.
    """
    left = {"bytes": size, "variables": MAX_VARIABLES}

    def spend(name, shape, dtype):
        left["bytes"] -= size_in_bytes(shape, dtype)
        left["variables"] -= 1
        if min(left.values()) < 0:
            raise BudgetError(
                f"variable {name!r} of shape {shape} and dtype {dtype}, "
                f"beyond the {size} bytes that are stored or the "
                f"{MAX_VARIABLES} variables that a rule may have"
            )

    return spend


def size_in_bytes(shape: Sequence[int], dtype: str) -> int:
    """The bytes of a variable.

    Args:
        shape: Sequence of integers.
        dtype: String.

    Raises:
        TypeError: If there is no such dtype of numbers.
    """
    try:
        kind = keras.backend.standardize_dtype(dtype)
    except ValueError as error:
        raise TypeError(f"{dtype!r} is no dtype") from error
    digits = _NUMBER.fullmatch(kind)
    if digits is None and kind != "bool":
        raise TypeError(f"{dtype!r} is no dtype of numbers")
    return math.prod(shape) * (int(digits[1]) // 8 if digits else 1)
