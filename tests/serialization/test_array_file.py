"""Meta-parameters as arrays of NumPy: what is read, and what is refused."""

import io
import shutil
import zipfile

import ml_dtypes
import numpy as np
import pytest

from keras_l2l import load_rule, presets
from keras_l2l.serialization import RuleFormatError
from keras_l2l.serialization.array_file import read_arrays, write_arrays

ARRAYS = {
    "file": np.arange(6, dtype="float32").reshape(2, 3).T,
    "scalar": np.float64(0.5),
    "empty": np.zeros((0, 2), "int32"),
}
LISTED = {
    "scalar": ([], "float64"),
    "empty": ([0, 2], "int32"),
    "file": ([3, 2], "float32"),
}


def test_arrays_come_back(tmp_path):
    path = tmp_path / "arrays.npz"
    write_arrays(path, ARRAYS)
    received = read_arrays(path, LISTED)
    assert list(received) == list(LISTED)
    for name, value in received.items():
        np.testing.assert_array_equal(value, ARRAYS[name])
        assert value.dtype == LISTED[name][1]
    with np.load(path) as arrays:  # NumPy alone reads it, too.
        np.testing.assert_array_equal(arrays["file"], ARRAYS["file"])


def test_equal_arrays_give_equal_bytes(tmp_path):
    for name in ("one.npz", "two.npz"):
        write_arrays(tmp_path / name, ARRAYS)
    one, two = (tmp_path / name for name in ("one.npz", "two.npz"))
    assert one.read_bytes() == two.read_bytes()


def test_bfloat16_comes_back(tmp_path):
    # Not a sum, which older versions of ml_dtypes make float32.
    path, value = tmp_path / "arrays.npz", np.ones(3, ml_dtypes.bfloat16)
    write_arrays(path, {"a": value})
    (received,) = read_arrays(path, {"a": ([3], "bfloat16")}).values()
    np.testing.assert_array_equal(received.astype("float32"), np.ones(3))


def _entry(shape, dtype="<f4", data=b""):
    """A file of NumPy whose header may ask for anything."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": dtype}
    )
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_entry((10**9, 10**9)), "must be of shape"),
        (_entry((2,), "<f8", bytes(16)), "dtype float32"),
        (_entry((2,), "|O", b"cos\nsystem\n(S'true'\ntR."), "dtype float32"),
        (_entry((2,), data=bytes(4)), "must have 8 bytes"),
        (_entry((2,), data=bytes(12)), "must have 8 bytes"),
        (b"no array", "magic string"),
        (b"", "EOF|magic"),
    ],
)
def test_what_is_not_listed_is_not_read(tmp_path, content, message):
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match=message):
        read_arrays(path, {"a": ([2], "float32")})


def test_archives_that_are_none(tmp_path):
    path, listed = tmp_path / "arrays.npz", {"a": ([2], "float32")}
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(path, listed)
    write_arrays(path, {"a": np.zeros(2, "float32"), "b": np.zeros(1)})
    with pytest.raises(ValueError, match=r"must hold \['a.npy'\]"):
        read_arrays(path, listed)
    np.savez_compressed(path, a=np.zeros(2, "float32"))
    with pytest.raises(ValueError, match="compressed"):
        read_arrays(path, listed)


def test_it_is_checked_against_the_checkpoint(tmp_path):
    path = shutil.copytree(presets.path("lstm-mnist"), tmp_path / "rule")
    file = path / "meta_parameters.npz"
    with np.load(file) as arrays:
        changed = {name: arrays[name].copy() for name in arrays}
    next(iter(changed.values())).flat[0] += 1
    write_arrays(file, changed)
    with pytest.raises(RuleFormatError, match=r"meta_parameters\.npz"):
        load_rule(path)
    file.write_bytes(b"")
    with pytest.raises(RuleFormatError, match=r"meta_parameters\.npz"):
        load_rule(path)
    file.unlink()  # as in an export of an earlier version
    assert (
        load_rule(path).count_params()
        == presets.load("lstm-mnist").count_params()
    )
