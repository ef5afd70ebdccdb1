"""Data that cannot be had: what is missing is told at once."""

import contextlib
import http.server
import pathlib
import socket
import sys
import threading

import pytest

from keras_l2l.tasks import datasets


class Builder:
    """A data set that is not there, of a server of this machine."""

    name = "mnist"
    data_path = pathlib.Path("/data/mnist/3.0.1")

    def __init__(self, port):
        self.url_infos = {f"http://127.0.0.1:{port}/images.gz": None}
        self.downloads = 0

    def download_and_prepare(self):
        self.downloads += 1
        raise RuntimeError("a wrong checksum")


@contextlib.contextmanager
def server(status):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port
        running.shutdown()


def error_of(builder):
    with pytest.raises(OSError, match="'mnist' is not in") as error:
        datasets._download(builder)
    assert "TFDS_DATA_DIR" in str(error.value)
    assert "tfds.load('mnist'" in str(error.value)
    return str(error.value)


def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    builder = Builder(port)
    assert "refused" in error_of(builder)
    assert builder.downloads == 0


def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(datasets, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        builder = Builder(silent.getsockname()[1])
        error = error_of(builder)
    assert "no answer in 0.2 seconds" in error or "timed out" in error
    assert builder.downloads == 0


@pytest.mark.parametrize(
    ("status", "message", "downloads"),
    [
        (503, "503", 0),
        (405, "a wrong checksum", 1),
        (200, "a wrong checksum", 1),
    ],
)
def test_a_download_is_tried_once(status, message, downloads):
    with server(status) as port:
        builder = Builder(port)
        assert message in error_of(builder)
    assert builder.downloads == downloads


def test_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    datasets._splits.cache_clear()
    with pytest.raises(OSError, match=r'pip install "keras-l2l\[data\]"'):
        datasets.images("mnist", size=7)
    assert not datasets.has_images("mnist")
