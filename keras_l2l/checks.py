"""Checks of arguments that several modules share."""

import difflib
import operator
from typing import Any


def positive_integers(**arguments: Any) -> tuple[int, ...]:
    """Checks arguments that must be positive integers.

    Args:
        **arguments: Values by the names of the arguments. Integers of NumPy
            are integers, `True` is none.

    Returns:
        Tuple of `int`, in the same order.

    Raises:
        ValueError: If one is not; it names the first.
    """
    integers = []
    for argument, value in arguments.items():
        try:
            # The protocol of what can be an index, as NumPy's integers can.
            integer = 0 if _is_bool(value) else operator.index(value)
        except TypeError:
            integer = 0
        if integer < 1:
            raise ValueError(
                f"Argument `{argument}` must be a positive integer. "
                f"Received: {argument}={value!r}"
            )
        integers.append(integer)
    return tuple(integers)


def positive_integer(**argument: Any) -> int:
    """`positive_integers` for a single argument, as an `int`."""
    (integer,) = positive_integers(**argument)
    return integer


def _is_bool(value):
    return "bool" in type(value).__name__


def fractions(**arguments):
    """Raises a `ValueError` that names the first that is not in [0, 1)."""
    for argument, value in arguments.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(
                f"Argument `{argument}` must be in the range [0, 1). "
                f"Received: {argument}={value}"
            )


def positive_numbers(**arguments):
    """Raises a `ValueError` that names the first that is none."""
    for argument, value in arguments.items():
        if not value > 0:
            raise ValueError(
                f"Argument `{argument}` must be a positive number. "
                f"Received: {argument}={value!r}"
            )


def known_name(name, known, kind):
    """Raises a `ValueError` if a name is not among those that are known.

    Args:
        name: What was received for an argument `name`.
        known: Iterable of strings.
        kind: String, what they are names of: `"a preset"`.
    """
    known = sorted(known)
    if name not in known:
        raise ValueError(
            f"Argument `name` must be {kind}: one of {known}. "
            f"Received: name={name!r}.{did_you_mean(name, known)}"
        )


def did_you_mean(name, known):
    """A sentence for the end of an error: what may have been meant, if any.

    Args:
        name: What was received.
        known: Iterable of strings.

    Returns:
        A string, perhaps empty.
    """
    close = difflib.get_close_matches(str(name), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
