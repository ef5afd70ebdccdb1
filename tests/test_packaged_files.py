import pathlib
import tomllib

import pytest

from keras_l2l import packaged_files


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    root = tmp_path / "shelf"
    for name in ("b", "a", ".cut", "empty"):
        (root / name).mkdir(parents=True)
    for name in ("b", "a", ".cut"):
        (root / name / "manifest.json").touch()
    for name in ("two.py", "one.py", ".hidden.py", "notes.txt"):
        (root / name).touch()
    for kind in ("presets", "experiments"):
        monkeypatch.setitem(
            packaged_files.DIRECTORIES, kind, (tmp_path / "not_here", root)
        )
    return root


def test_find_is_sorted_and_leaves_out_what_is_hidden(shelf):
    found = packaged_files.find("presets")
    assert list(found.items()) == [("a", shelf / "a"), ("b", shelf / "b")]
    found = packaged_files.find("experiments")
    assert list(found.items()) == [
        ("one", shelf / "one.py"),
        ("two", shelf / "two.py"),
    ]


def test_the_package_comes_before_the_checkout(shelf, tmp_path):
    (tmp_path / "not_here").mkdir()
    assert packaged_files.find("presets") == {}


def test_nothing_is_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(
        packaged_files.DIRECTORIES, "presets", (tmp_path / "not_here",)
    )
    assert packaged_files.find("presets") == {}


def test_the_wheel_carries_what_lies_beside_the_package():
    root = pathlib.Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    carried = project["tool"]["hatch"]["build"]["targets"]["wheel"][
        "force-include"
    ]
    assert {(root / source, root / to) for source, to in carried.items()} == {
        (checkout, packaged)
        for packaged, *beside in packaged_files.DIRECTORIES.values()
        for checkout in beside
    }
