"""Checks of arguments that several modules share."""


def positive_integers(**arguments):
    """Raises a `ValueError` that names the first that is none."""
    for argument, value in arguments.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"Argument `{argument}` must be a positive integer. "
                f"Received: {argument}={value!r}"
            )


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
