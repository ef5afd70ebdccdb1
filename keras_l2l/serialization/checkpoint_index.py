"""The index of a TensorFlow checkpoint, read as data.

TensorFlow's own reader aborts the process at impossible shapes, and allocates
whatever a shape asks for. So names, shapes and dtypes of a stranger's
checkpoint are read here, before TensorFlow opens it. Checksums are left to
TensorFlow.

The file is a sorted string table, as in LevelDB, of `BundleEntryProto`s.

Reference:
    `tensorflow/core/protobuf/tensor_bundle.proto`
"""

import os
import pathlib
import struct
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

SIZE_LIMIT = 2**20  # bytes
MAX_ENTRIES = 1100

# What a checkpoint holds beside variables.
_HEADER = ""
_OBJECT_GRAPH: tuple[str, tuple[list[int], str]] = (
    "_CHECKPOINTABLE_OBJECT_GRAPH",
    ([], "string"),
)
_FOOTER_SIZE = 48
_MAGIC = bytes.fromhex("57fb808b247547db")


def read_index(
    path: str | os.PathLike[str],
) -> dict[str, tuple[list[int], str]]:
    """Reads what variables a checkpoint has.

    Args:
        path: String or path of the `.index` file.

    Returns:
        Dict from the keys of variables to `(shape, dtype)`.

    Raises:
        ValueError: If it is no such index, or one of an unusual kind.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path.name}")
    with open(path, "rb") as stream:
        table = stream.read(SIZE_LIMIT + 1)
    if len(table) > SIZE_LIMIT:
        raise ValueError(f"{path.name} has more than {SIZE_LIMIT} bytes")
    try:
        return _variables(table)
    except (struct.error, DecodeError, TypeError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def _variables(table: bytes) -> dict[str, tuple[list[int], str]]:
    variables = {}
    for key, value in _bounded(_table_entries(table)):
        name = key.decode()
        if name == _HEADER:
            continue
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
        if entry.slices or entry.shape.unknown_rank:
            raise ValueError(f"{name!r} is in slices, or of unknown rank")
        shape = [dimension.size for dimension in entry.shape.dim]
        variable = (shape, tf.as_dtype(entry.dtype).name)
        if (name, variable) != _OBJECT_GRAPH:
            variables[name] = variable
    return variables


class _Cursor:
    """Reads bytes one after the other; raises where there are no more."""

    def __init__(self, data: bytes, position: int = 0):
        self.data = data
        self.position = position

    def bytes(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise ValueError("its index ends early")
        part, self.position = self.data[self.position : end], end
        return part

    def integer(self) -> int:
        """A varint of at most 64 bits, as in protocol buffers."""
        value = 0
        for shift in range(0, 64, 7):
            (byte,) = self.bytes(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("its index has too long a number")


def _table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values from all blocks of the table."""
    if not table.endswith(_MAGIC):
        raise ValueError("its index is no table")
    footer = _Cursor(table, max(0, len(table) - _FOOTER_SIZE))
    # A block of metadata, then the block of the handles of all others.
    _, _, *handle = (footer.integer() for _ in range(4))
    for _, value in _bounded(_block_entries(table, *handle)):
        cursor = _Cursor(value)
        yield from _block_entries(table, cursor.integer(), cursor.integer())


def _block_entries(
    table: bytes, offset: int, size: int
) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values of one block of the table."""
    cursor = _Cursor(table, offset)
    block = cursor.bytes(size)
    if cursor.bytes(1) != b"\0":
        raise ValueError("its index is compressed")
    (restarts,) = struct.unpack("<I", block[-4:])
    entries = _Cursor(block[: -4 * (restarts + 1)])
    key = b""
    while entries.position < len(entries.data):
        shared, unshared, length = (entries.integer() for _ in range(3))
        # A key shares its first bytes with the one before.
        key = key[:shared] + entries.bytes(unshared)
        yield key, entries.bytes(length)


def _bounded(
    entries: Iterator[tuple[bytes, bytes]],
) -> Iterator[tuple[bytes, bytes]]:
    """Yields entries, and raises after too many."""
    for count, entry in enumerate(entries):
        if count == MAX_ENTRIES:
            raise ValueError(f"its index has more than {count} entries")
        yield entry
