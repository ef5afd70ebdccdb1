"""Variables as Keras hands them over."""

import keras


class Untracked:
    """Holds a structure that an attribute of Keras would wrap and track.

    Args:
        value: What it holds.
    """

    def __init__(self, value):
        self.value = value


def path_of(variable):
    """The path of a variable in its model: a string."""
    # A `tf.Variable` has a name alone, with the number of an output.
    return getattr(variable, "path", variable.name).partition(":")[0]


def is_overwritten(variable):
    """Whether its gradient is its next value, as Keras has it for float8."""
    return getattr(variable, "overwrite_with_gradient", False)


def check_trainable(variables):
    """Refuses variables that no rule can train.

    Args:
        variables: List of variables.

    Raises:
        ValueError: If one is not of a real floating-point dtype. Its update
            would be cast, and a part of it lost silently.
    """
    for variable in variables:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if "float" not in dtype and not is_overwritten(variable):
            raise ValueError(
                "`L2LOptimizer` updates variables of floating-point dtypes "
                "alone. Keep a complex variable as two real ones, its real "
                "and its imaginary part; give an integer one "
                "`trainable=False`. "
                f"Received: variable {path_of(variable)!r} of dtype {dtype}"
            )
