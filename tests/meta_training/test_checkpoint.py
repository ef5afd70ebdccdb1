import numpy as np
import pytest

from keras_l2l.meta_training import checkpoint

ARRAYS = [np.arange(6.0).reshape(2, 3), np.float32(2.5), np.array([], "int64")]
DOCUMENT = {"epoch": 3, "loss": float("inf"), "history": {"loss": [1.0]}}


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "new" / "backup.npz"
    checkpoint.write(path, ARRAYS, DOCUMENT)
    arrays, document = checkpoint.read(path)
    assert document == DOCUMENT
    for ours, theirs in zip(ARRAYS, arrays):
        assert np.asarray(ours).dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_failure_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "backup.npz"
    checkpoint.write(path, ARRAYS, DOCUMENT)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, ARRAYS, {"epoch": 4})
    assert checkpoint.read(path)[1] == DOCUMENT


def test_another_file_is_refused_without_advice_to_unpickle(tmp_path):
    path = tmp_path / "backup.npz"
    path.write_bytes(b"no backup")
    with pytest.raises(ValueError, match="or no backup") as error:
        checkpoint.read(path)
    assert "pickle" not in str(error.value)


@pytest.mark.parametrize("size", [0, 10, 300])
def test_a_cut_file_is_refused(tmp_path, size):
    path = tmp_path / "backup.npz"
    checkpoint.write(path, ARRAYS, DOCUMENT)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="Move it away to start the run anew"):
        checkpoint.read(path)


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "backup.npz"
    np.savez(path, document=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.read(path)
