import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from keras_l2l.serialization import atomic_write
from keras_l2l.serialization.atomic_write import atomic_directory, atomic_file


def test_a_file_is_made_and_replaced(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for content in (b"one", b"two"):
        with atomic_file(str(path)) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"one"
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file.txt"]
    # As `open` makes it, not as `tempfile` does.
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_directory_is_made_and_replaced(tmp_path):
    path = tmp_path / "new" / "results"
    for name in ("one", "two"):
        with atomic_directory(path) as directory:
            (directory / name).touch()
        assert os.listdir(path) == [name]
    assert os.listdir(path.parent) == ["results"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_one(tmp_path, error):
    (tmp_path / "file").write_bytes(b"old")

    def fail_in_the_middle():
        with (
            atomic_file(tmp_path / "file") as file,
            atomic_directory(tmp_path / "results") as directory,
        ):
            file.write(b"half")
            (directory / "half").touch()
            raise error

    with pytest.raises(error):
        fail_in_the_middle()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_rename_brings_the_old_directory_back(tmp_path, monkeypatch):
    path = tmp_path / "results"
    with atomic_directory(path) as directory:
        (directory / "old").touch()
    rename = pathlib.Path.rename

    def fail_for_the_new_one(self, target):
        if self.suffix == ".tmp":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", fail_for_the_new_one)
    with (
        pytest.raises(OSError, match="disk full"),
        atomic_directory(path) as directory,
    ):
        (directory / "new").touch()
    assert os.listdir(tmp_path) == ["results"]
    assert os.listdir(path) == ["old"]


def test_two_writers_at_once(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path) as one, atomic_file(path) as two:
        one.write(b"one")
        two.write(b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = f"""
        import os, runpy, signal
        # Alone, as to import the package takes seconds.
        module = runpy.run_path({atomic_write.__file__!r})
        with module["atomic_file"]({str(path)!r}) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=False
    )
    assert run.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
