"""Checks of arguments that several modules share."""


def positive_integers(**arguments):
    """Raises a `ValueError` that names the first that is none."""
    for argument, value in arguments.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"Argument `{argument}` must be a positive integer. "
                f"Received: {argument}={value!r}"
            )


def positive_numbers(**arguments):
    """Raises a `ValueError` that names the first that is none."""
    for argument, value in arguments.items():
        if not value > 0:
            raise ValueError(
                f"Argument `{argument}` must be a positive number. "
                f"Received: {argument}={value!r}"
            )
