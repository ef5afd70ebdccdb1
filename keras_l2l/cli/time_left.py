"""How long a meta-training will still take."""

import sys
import time
from collections.abc import Sequence

import keras


class TimeLeft(keras.callbacks.Callback):
    """Prints, after each epoch, how long those that are left will take.

    One callback sees all stages, one after the other. The epochs of a stage
    that has not begun are taken to last as long as those that were seen.

    Args:
        epochs: Sequence of integers, the epochs of each stage.
    """

    def __init__(self, epochs: Sequence[int]):
        super().__init__()
        self._epochs = list(epochs)
        self._stage = -1
        self._durations: list[float] = []

    def on_train_begin(self, logs=None):
        self._stage += 1

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self._durations.append(time.monotonic() - self._begin)
        left = self._epochs[self._stage] - epoch - 1
        left += sum(self._epochs[self._stage + 1 :])
        if left:
            # The first epoch traces, so the last ones tell more.
            last = self._durations[-3:]
            seconds = left * sum(last) / len(last)
            epochs = "1 epoch" if left == 1 else f"{left} epochs"
            print(f"{epochs} left, about {_text(seconds)}", file=sys.stderr)


def _text(seconds: float) -> str:
    """A duration, as exact as a guess is."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
