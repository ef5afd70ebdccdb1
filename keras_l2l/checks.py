"""Checks of arguments that several modules share."""

import difflib
import importlib
import operator
import types
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
        integer = _as_integer(value)
        if integer is None or integer < 1:
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


def positive_integer_fields(record: Any, *names: str) -> None:
    """`positive_integers` for fields of a frozen dataclass, made `int`s."""
    fields = {name: getattr(record, name) for name in names}
    for name, integer in zip(names, positive_integers(**fields)):
        object.__setattr__(record, name, integer)


def seed(value: Any) -> int:
    """Checks a seed.

    Args:
        value: What was received for an argument `seed`.

    Returns:
        An `int`, as a seed may be an integer of NumPy.

    Raises:
        ValueError: If it is no integer, or negative.
    """
    integer = _as_integer(value)
    if integer is None or integer < 0:
        raise ValueError(
            "Argument `seed` must be an integer, zero or greater. "
            f"Received: seed={value!r}"
        )
    return integer


def _as_integer(value):
    """The value as an `int`, or `None` if it is no integer."""
    if "bool" in type(value).__name__:
        return None
    try:
        # The protocol of what can be an index, as NumPy's integers can.
        return operator.index(value)
    except TypeError:
        return None


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


def import_extra(module: str, extra: str, feature: str) -> types.ModuleType:
    """Imports a package that is not installed with this one.

    Args:
        module: String, the name to import.
        extra: String, the extra of this package that installs it.
        feature: String, the beginning of the sentence: "A figure needs".

    Returns:
        The module.

    Raises:
        ImportError: If it is not installed; it says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{feature} the package `{module.partition('.')[0]}`, which is "
            f'not installed. Run `pip install "keras-l2l[{extra}]"`'
        ) from error


def needs_tensorflow(feature):
    """Raises a `RuntimeError` if Keras runs on another backend.

    Args:
        feature: String, the beginning of the sentence: "`keras_l2l.tasks`
            needs".
    """
    import keras  # Not at the top: the command line checks without it.

    backend = keras.config.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"{feature} the TensorFlow backend of Keras. Set the environment "
            "variable KERAS_BACKEND=tensorflow before importing keras. "
            "`L2LOptimizer`, the presets and exported rules work on JAX and "
            f"PyTorch, too. Received: backend={backend!r}"
        )
