"""The import of Keras on TensorFlow, without the lines that it logs."""

import os
import sys

from keras_l2l.cli import streams
from keras_l2l.cli.errors import CommandError

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def import_keras() -> None:
    """Imports Keras and TensorFlow.

    TensorFlow logs lines while it starts that concern no user. They are
    dropped, unless the environment variable `TF_CPP_MIN_LOG_LEVEL` is 0 or 1.

    Raises:
        CommandError: If Keras has no such backend, or another one.
    """
    is_asked_for = os.environ.setdefault(_LOG_LEVEL, "2") in ("0", "1")
    if "keras" in sys.modules or is_asked_for:
        _import()
    else:
        with streams.silent_stderr():
            _import()


def _import() -> None:
    try:
        import keras
    except (ImportError, ValueError) as error:
        chosen = os.environ.get("KERAS_BACKEND")
        raise CommandError(
            f"Keras cannot be imported: {error}. The environment variable "
            f"KERAS_BACKEND must be 'tensorflow' or unset. Received: {chosen!r}"
        ) from error
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise CommandError(
            "The commands need Keras's backend 'tensorflow': set the "
            "environment variable KERAS_BACKEND=tensorflow. "
            f"Received: {backend!r}"
        )
    import tensorflow as tf

    tf.config.list_physical_devices()  # starts them, which logs lines too
