import struct

import pytest
from tensorflow.core.protobuf import tensor_bundle_pb2

from keras_l2l import load_rule, presets
from keras_l2l.serialization.checkpoint_index import MAX_ENTRIES, read_index

MAGIC = bytes.fromhex("57fb808b247547db")


def varint(number):
    if number < 128:
        return bytes([number])
    return bytes([number & 127 | 128]) + varint(number >> 7)


def table(entries, compressed=b"\0"):
    """A sorted string table of one block; its checksums are left out."""

    def block(pairs):
        parts = [
            b"\0" + varint(len(key)) + varint(len(value)) + key + value
            for key, value in pairs
        ]
        return b"".join(parts) + struct.pack("<II", 0, 1)

    data = block(entries)
    handle = varint(0) + varint(len(data))
    index = block([(b"z", handle)])
    start = len(data) + 5
    footer = b"\0\0" + varint(start) + varint(len(index))
    trailer = compressed + bytes(4)
    return data + trailer + index + trailer + footer.ljust(40, b"\0") + MAGIC


def entry(*shape, dtype=1, **fields):
    proto = tensor_bundle_pb2.BundleEntryProto(dtype=dtype, **fields)
    for size in shape:
        proto.shape.dim.add().size = size
    return proto.SerializeToString()


def read(tmp_path, content):
    path = tmp_path / "variables.index"
    path.write_bytes(content)
    return read_index(path)


def test_variables_of_a_preset():
    variables = read_index(
        presets.path(presets.DEFAULT) / "variables" / "variables.index"
    )
    rule = load_rule(presets.path(presets.DEFAULT))
    assert sorted(variables.values()) == sorted(
        (list(weight.shape), weight.dtype) for weight in rule.weights
    )


def test_shapes_that_abort_the_reader_of_tensorflow(tmp_path):
    entries = [(b"", b""), (b"a", entry(-5, 2)), (b"b", entry(2**62, 2**62))]
    assert read(tmp_path, table(entries)) == {
        "a": ([-5, 2], "float32"),
        "b": ([2**62, 2**62], "float32"),
    }


def test_the_object_graph_is_no_variable(tmp_path):
    key = b"_CHECKPOINTABLE_OBJECT_GRAPH"
    assert read(tmp_path, table([(key, entry(dtype=7))])) == {}
    assert read(tmp_path, table([(key, entry(-5, dtype=7))])) != {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        MAGIC,
        bytes(100),
        table([(b"a", entry(2))])[:-1],
        table([(b"a", entry(2))], compressed=b"\1"),
        table([(b"a", b"\xff")]),
        table([(b"\xff", entry(2))]),
        table([(b"a", entry(2, dtype=77))]),
        table([(b"", b"")] * (MAX_ENTRIES + 1)),
        b"\xff" * 60 + MAGIC,
        bytes(2**20 + 1),
    ],
    ids=range(11),
)
def test_what_is_no_index(tmp_path, content):
    with pytest.raises(ValueError, match=r"ind|decode"):
        read(tmp_path, content)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="no file nothing"):
        read_index(tmp_path / "nothing")
