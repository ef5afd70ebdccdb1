"""Standard output and standard error that never end a run."""

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_ASCII = {"±": "+-", "×": "x", "→": "->", "…": "...", "–": "-", "—": "-"}


class SafeFile(io.FileIO):
    """A file descriptor on which writing never fails.

    A pipe whose reader is gone or a full disk must not end a training: what
    cannot be written is dropped.

    Attributes:
        error: The first `OSError` of a write, or `None`.
    """

    error: OSError | None = None

    def write(self, data, /):
        """Writes bytes, or drops them and remembers why."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return memoryview(data).nbytes


def install() -> None:
    """Replaces `sys.stdout` and `sys.stderr` by safe ones."""
    codecs.register_error("legible", _in_ascii)
    closed = _open_missing_descriptors()
    sys.stdout = _safe_stream(sys.stdout, 1)
    sys.stderr = _safe_stream(sys.stderr, 2)
    if 1 in closed:
        _raw(sys.stdout).error = OSError(
            errno.EBADF, "standard output is closed"
        )


def output_error() -> OSError | None:
    """Tells why standard output is incomplete.

    Returns:
        An `OSError`; `None` if all was written, or if its reader, such as
        `head`, had seen enough.
    """
    sys.stdout.flush()
    error = _raw(sys.stdout).error
    return None if error and error.errno == errno.EPIPE else error


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Drops what libraries write to the descriptor of standard error."""
    sys.stderr.flush()
    original, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(null)


def _safe_stream(stream: TextIO | None, descriptor: int) -> io.TextIOWrapper:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(SafeFile(descriptor, "w", closefd=False)),
        encoding=encoding,
        errors="legible",
        line_buffering=True,
    )


def _raw(stream: Any) -> SafeFile:
    return stream.buffer.raw


def _open_missing_descriptors() -> list[int]:
    """Opens the null device for each standard descriptor that is closed.

    Else the next file that is opened would get its number, and what was meant
    for the terminal would be written into it.
    """
    closed = []
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.append(descriptor)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    return closed


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_ASCII.get(c, "?") for c in text), error.end
