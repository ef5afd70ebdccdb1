"""How long a meta-training will still take."""

import pytest

from keras_l2l.cli import time_left


def test_the_epochs_of_all_stages_count(capsys, monkeypatch):
    now = iter([0.0, 100.0, 200.0, 210.0, 300.0, 310.0, 400.0, 410.0])
    monkeypatch.setattr(time_left.time, "monotonic", lambda: next(now))
    callback = time_left.TimeLeft([2, 2])
    for _ in range(2):
        callback.on_train_begin()
        for epoch in range(2):
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {})
    assert capsys.readouterr().err.splitlines() == [
        "3 epochs left, about 5 min",
        "2 epochs left, about 2 min",
        "1 epoch left, about 40 s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (300, "5 min"), (7200, "2.0 h")],
)
def test_durations(seconds, text):
    assert time_left._text(seconds) == text
