"""Files and directories that are written whole or not at all.

Both are built beside their destination and renamed when complete, so that a
failure or a kill at any moment leaves what was there before, or what is new.
A kill while one is built can leave a hidden entry `.NAME.….tmp` beside it,
which may be removed.
"""

import contextlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` when the block ends without an error.

    Args:
        path: String or path. Its directory is made if it does not exist.

    Yields:
        A binary file, open for writing.

    Example:

    >>> with atomic_file("result.json") as file:
    ...     _ = file.write(b"{}")
    """
    path = pathlib.Path(path)
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            # On the disk before the name is: after a power cut, too.
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Makes a directory that replaces `path` when the block ends well.

    No operating system replaces a directory in one step everywhere: of a
    process that is killed between the two renames, the earlier directory is
    whole beside `path`, as `.NAME.….old`.

    Args:
        path: String or path of a directory, or of nothing. Its parent is
            made if it does not exist.

    Yields:
        `pathlib.Path` of a new, empty directory to write to.

    Example:

    >>> with atomic_directory("results") as directory:
    ...     (directory / "table.txt").touch()
    """
    path = pathlib.Path(path)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: pathlib.Path) -> pathlib.Path:
    """A new hidden name beside `path`, which no other process takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _put_in_place(new: pathlib.Path, path: pathlib.Path) -> None:
    """Renames `new` to `path`; what was at `path` survives a failure."""
    if not path.exists():
        new.rename(path)
        return
    old = new.with_suffix(".old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old)
