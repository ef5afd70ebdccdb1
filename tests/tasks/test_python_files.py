import re

import pytest

from keras_l2l.tasks import python_files

FILE = """\
import dataclasses

import neighbour


@dataclasses.dataclass
class Point:
    x: int = 0


def four():
    return 2 * neighbour.TWO


def fails():
    raise KeyError("a column")


def leaves():
    raise SystemExit(1)


def needs(units):
    return units


NUMBER = 4
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("elsewhere")
    (tmp_path / "keras.py").write_text(FILE)  # the name of a package
    (tmp_path / "neighbour.py").write_text("TWO = 2")
    return tmp_path


def test_a_function_is_called(here):
    assert python_files.load_function("data", "keras.py:four")() == 4


def test_a_file_is_run_once_and_again_after_a_change(here):
    (here / "counts.py").write_text(
        "import pathlib\n"
        "log = pathlib.Path('log')\n"
        "log.write_text(log.read_text() + '1' if log.exists() else '1')\n"
        "def one(): return 1\n"
        "def two(): return 2\n"
    )
    assert python_files.load_function("data", "counts.py:one")() == 1
    assert python_files.load_function("model", "counts.py:two")() == 2
    assert (here / "log").read_text() == "1"
    (here / "counts.py").write_text("def one(): return 11")
    assert python_files.load_function("data", "counts.py:one")() == 11


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("keras.py", "`data` must be FILE.py:FUNCTION"),
        ("keras:four", "`data` must be FILE.py:FUNCTION"),
        ("nowhere.py:four", "no file 'nowhere.py'"),
        ("keras.py:for", "no function 'for'. Did you mean 'four'?"),
        ("keras.py:NUMBER", "no function 'NUMBER'"),
        ("wrong.py:four", "raised SyntaxError"),
        ("missing.py:four", "'missing.py' raised ModuleNotFoundError: No"),
        ("script.py:four", 'below `if __name__ == "__main__":`'),
    ],
)
def test_what_cannot_be_loaded(here, reference, message):
    (here / "wrong.py").write_text("def four(:")
    (here / "missing.py").write_text("import no_such_module_anywhere")
    (here / "script.py").write_text("raise SystemExit(0)")
    with pytest.raises(ValueError, match=re.escape(message)):
        python_files.load_function("data", reference)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "raised KeyError: 'a column', in line 16 of keras.py"),
        ("leaves", "ended the process"),
        ("needs", "missing 1 required positional argument: 'units'"),
    ],
)
def test_a_function_that_fails(here, name, message):
    function = python_files.load_function("model", f"keras.py:{name}")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        function()
    assert str(caught.value).startswith("Argument `model`: ")
