import re

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l.tasks import data_files

TABLE = """\
age;colour;price
1;red;1.5
2;green;2.5
3;red;3.5
4;green;4.5
5;red;5.5
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table(here):
    (here / "table.csv").write_text("\ufeff" + TABLE, encoding="utf-8")
    x, y = data_files.read_csv("table.csv")
    np.testing.assert_array_equal(x[:2], [[1, 0, 1], [2, 1, 0]])
    assert x.dtype == "float32"
    np.testing.assert_array_equal(y, [1.5, 2.5, 3.5, 4.5, 5.5])
    x, y = data_files.read_csv("table.csv", target="colour")
    np.testing.assert_array_equal(y, [1, 0, 1, 0, 1])
    np.testing.assert_array_equal(x[0], [1.0, 1.5])


def test_a_fifth_is_held_out(here):
    np.savez("data.npz", x=np.arange(20.0), y=np.arange(20))
    train, test = data_files.load("data.npz")
    assert [len(part) for part in (*train, *test)] == [16, 16, 4, 4]
    together = np.concatenate([train[0], test[0]])
    np.testing.assert_array_equal(np.sort(together), np.arange(20))
    for x, y in (train, test):
        np.testing.assert_array_equal(x, y)
    again, _ = data_files.load("data.npz")
    np.testing.assert_array_equal(again[0], train[0])


@pytest.mark.parametrize("suffix", ["", "_train"])
def test_held_out_data_of_an_archive(here, suffix):
    arrays = {f"x{suffix}": np.ones((3, 2)), f"y{suffix}": np.ones(3)}
    np.savez("data.npz", **arrays, x_test=np.zeros((1, 2)), y_test=np.zeros(1))
    train, test = data_files.load("data.npz")
    assert train[0].shape == (3, 2)
    assert train[0].dtype == "float32"
    np.testing.assert_array_equal(test[0], [[0.0, 0.0]])


FUNCTIONS = """\
import numpy as np
import tensorflow as tf

x, y = np.ones((10, 2)), np.zeros(10)

def arrays():
    return x, y

def pairs():
    return (x, y), (x[:3], y[:3])

def batches():
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(5)

def two_datasets():
    return batches(), batches()

def two_inputs():
    return {"left": x, "right": x}, y

def nothing():
    pass

def one():
    return x

def texts():
    return x, np.array(["red"] * 10)

def objects():
    return x, np.array([None] * 10)

def ragged():
    return [[1.0], [1.0, 2.0]], [0, 1]

def undefined():
    return np.where(np.eye(10), np.nan, 1.0), y

def lengths():
    return x, y[:5]

def empty():
    return x[:0], y[:0]

def scalars():
    return 1.0, 2.0

def few():
    return x[:4], y[:4]
"""


@pytest.mark.parametrize(
    ("name", "held_out"),
    [("arrays", 2), ("pairs", 3), ("two_inputs", 2)],
)
def test_a_function(here, name, held_out):
    (here / "mine.py").write_text(FUNCTIONS)
    train, test = data_files.load(f"mine.py:{name}")
    assert len(test[1]) == held_out
    assert len(train[1]) == (10 if name == "pairs" else 8)


@pytest.mark.parametrize("name", ["batches", "two_datasets"])
def test_a_function_that_returns_a_dataset(here, name):
    (here / "mine.py").write_text(FUNCTIONS)
    train, test = data_files.load(f"mine.py:{name}")
    assert isinstance(train, tf.data.Dataset)
    assert (test is None) == (name == "batches")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "must return arrays `(x, y)`"),
        ("one", "must return arrays `(x, y)`"),
        ("texts", "`y` must be numbers. Received: texts, such as 'red'"),
        ("objects", "`y` must be an array of numbers"),
        ("ragged", "`x` must be an array: "),
        ("undefined", "`x` must be finite. Received: 10 of 100"),
        ("lengths", "as many inputs as targets"),
        ("empty", "must have examples along the first axis"),
        ("scalars", "must have examples along the first axis"),
        ("few", "at least 5 examples"),
    ],
)
def test_a_function_that_returns_no_data(here, name, message):
    (here / "mine.py").write_text(FUNCTIONS)
    with pytest.raises(ValueError, match=re.escape(message)):
        data_files.load(f"mine.py:{name}")


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("", None, "one row below it. Received: 0 lines"),
        ("a,b\n", None, "one row below it. Received: 1 lines"),
        ("a\n1\n", None, "a target and at least one other column"),
        ("1,2\n3,4\n", None, "The first line of 'table.csv' must name"),
        ("a,a\n3,4\n", None, "Received twice: ['a']"),
        ("a,b\n3,4\n5\n", None, "Line 3 of 'table.csv' must have 2 values"),
        ("a,b\n3,4\n", "bb", "Did you mean 'b'?"),
        ("a,b\n1,4\n,5\n", None, "'a' has no value in 1 of 2 rows, the first"),
        ("a,b\n1,4\n2,NA\n", None, "'b' has no value in 1 of 2 rows"),
        ("a,b\nx,p\ny,q\nz,r\n", None, "too many to be classes"),
        (
            "a,b\n" + "".join(f"t{i},1\n" for i in range(21)),
            None,
            "'a' has 21 different texts",
        ),
    ],
)
def test_no_table(here, text, target, message):
    (here / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        data_files.load("table.csv", target)


def test_a_table_in_another_encoding(here):
    (here / "table.csv").write_bytes("a,größe\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        data_files.load("table.csv")


def test_infinite_values_of_a_table(here):
    (here / "table.csv").write_text("a,b\n" + "1,2\n" * 4 + "inf,2\n")
    with pytest.raises(ValueError, match="must be finite"):
        data_files.load("table.csv")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.ones(3)}, r"must have arrays `x` and `y`.*\['a'\]"),
        ({"x": np.array([None]), "y": np.ones(1)}, "must be an .npz of num"),
    ],
)
def test_an_archive_without_data(here, arrays, message):
    np.savez("data.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data_files.load("data.npz")


@pytest.mark.parametrize(
    ("data", "target", "message"),
    [
        ("nowhere.csv", None, "no file 'nowhere.csv'"),
        ("damaged.npz", None, "must be an .npz of numbers"),
        ("data.txt", None, "must be a .csv, an .npz or FILE.py:FUNCTION"),
        ("damaged.npz", "y", "is the column of a .csv"),
    ],
)
def test_no_data(here, data, target, message):
    (here / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    (here / "data.txt").write_text("1 2")
    with pytest.raises(ValueError, match=re.escape(message)):
        data_files.load(data, target)
