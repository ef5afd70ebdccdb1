"""The import of Keras on TensorFlow, without the lines that it logs."""

import os
import sys

from keras_l2l.cli import streams
from keras_l2l.cli.errors import CommandError

_ASKED_FOR_LOGS = "TF_CPP_MIN_LOG_LEVEL"


def import_keras() -> None:
    """Imports Keras and TensorFlow.

    Both log lines while they start that concern no user. They are held back,
    unless the environment variable `TF_CPP_MIN_LOG_LEVEL` asks for them.

    Raises:
        CommandError: If Keras has no such backend, or another one.
    """
    if "keras" in sys.modules or _ASKED_FOR_LOGS in os.environ:
        _import()
        return
    os.environ[_ASKED_FOR_LOGS] = "2"
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
            "keras_l2l needs Keras's backend 'tensorflow': set the environment "
            f"variable KERAS_BACKEND=tensorflow. Received: {backend!r}"
        )
    import tensorflow as tf

    tf.config.list_physical_devices()  # starts them, which logs lines too
