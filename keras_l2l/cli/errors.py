"""How a command fails: in one line, with an exit status."""

import contextlib
from collections.abc import Iterator

import click

USER_ERROR = 2
INTERRUPTED = 130
NOTHING_KEPT = "Nothing was changed: the same command begins anew."


class CommandError(click.ClickException):
    """A mistake that the user can put right: reported in one line."""

    exit_code = USER_ERROR


class Interrupted(click.ClickException):
    """Ctrl-C: one line says what was kept and how to go on."""

    exit_code = INTERRUPTED


@contextlib.contextmanager
def user_errors(*kinds: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turns errors of these kinds into `CommandError`s."""
    try:
        yield
    except kinds as error:
        text = str(error) or type(error).__name__
        raise CommandError(f"{prefix}{text}") from error


@contextlib.contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Turns Ctrl-C into `Interrupted`; the sentence says what was kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted. {kept}") from error
