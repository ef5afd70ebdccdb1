"""The variables of a SavedModel, read without its graph."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_l2l.serialization.checkpoint_index import read_index
from keras_l2l.serialization.meta_parameters import check_same
from keras_l2l.serialization.variable_budget import size_in_bytes

_KEY = "meta_parameters/{}/.ATTRIBUTES/VARIABLE_VALUE"


def read_checkpoint(path, listed):
    """Reads the meta-parameters from the checkpoint of an exported rule.

    Args:
        path: String or path of the directory of the export.
        listed: Dict from names to `(shape, dtype)`, what it must hold.

    Returns:
        Dict of arrays, in the order of `listed`.

    Raises:
        RuleFormatError: If it holds other variables. A damaged checkpoint
            raises what TensorFlow raises.
    """
    prefix = os.path.join(path, "variables", "variables")
    _check_size(prefix, listed)
    names = {_KEY.format(name): name for name in listed}
    stored = {
        names.get(key, key): variable
        for key, variable in read_index(f"{prefix}.index").items()
    }
    check_same(stored, listed, "its checkpoint")
    reader = tf.train.load_checkpoint(prefix)
    return {
        name: np.asarray(reader.get_tensor(key)) for key, name in names.items()
    }


def _check_size(prefix, listed):
    """No more is allocated for variables than lies on the disk."""
    directory, name = os.path.split(prefix)
    files = Path(directory).glob(f"{name}.data-*")
    stored = sum(file.stat().st_size for file in files if file.is_file())
    needed = sum(size_in_bytes(shape, kind) for shape, kind in listed.values())
    if needed > stored:
        raise ValueError(
            f"the variables take {needed} bytes, of which {stored} are there"
        )
