"""What `load_rule` refuses, and what it does not run."""

import os

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import load_rule, rules
from keras_l2l.serialization import RuleFormatError, saved_model
from keras_l2l.serialization import manifest as manifests


def write_variables(path, variables):
    """Replaces the variables of an export."""
    module = tf.Module()
    module.meta_parameters = {k: tf.Variable(v) for k, v in variables.items()}
    tf.saved_model.save(module, os.fspath(path / "other"))
    for file in (path / "other" / "variables").iterdir():
        file.replace(path / "variables" / file.name)


ZERO = np.zeros((), "float32")


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({}, r"'learning_rate': expected \(\[\], 'float32'\), received none"),
        ({"learning_rate": ZERO, "extra": ZERO}, "extra.*no such variable"),
        ({"learning_rate": np.zeros(2, "float32")}, r"received \(\[2\]"),
        ({"learning_rate": np.zeros(())}, r"received \(\[\], 'float64'\)"),
        ({"learning_rate": ZERO + np.nan}, r"NaN or infinity in \['learning"),
        ({"learning_rate": ZERO + np.inf}, r"NaN or infinity in \['learning"),
    ],
    ids=["missing", "extra", "shape", "dtype", "nan", "inf"],
)
def test_variables_that_do_not_fit(adam, variables, match):
    write_variables(adam, variables)
    with pytest.raises(RuleFormatError, match=match):
        load_rule(adam)


@pytest.mark.parametrize(
    "file", ["variables.index", "variables.data-00000-of-00001"]
)
@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_checkpoint_that_cannot_be_read(lstm, file, content):
    if content is None:
        (lstm / "variables" / file).unlink()
    else:
        (lstm / "variables" / file).write_bytes(content)
    with pytest.raises(RuleFormatError, match="readable checkpoint"):
        load_rule(lstm)


class Planted(tf.saved_model.experimental.TrackableResource):
    """Writes a file when its SavedModel is loaded."""

    def __init__(self, canary):
        super().__init__()
        self.canary = os.fspath(canary)
        _ = self.resource_handle

    def _create_resource(self):
        tf.io.write_file(self.canary, "sings")
        return tf.raw_ops.MutableHashTableV2(
            key_dtype=tf.string, value_dtype=tf.int64
        )

    def _initialize(self):
        tf.io.write_file(self.canary, "sings")


def test_load_rule_runs_no_planted_operation(adam, tmp_path):
    canary = tmp_path / "canary"
    module = saved_model.load_graph_unsafe(adam)
    module.planted = Planted(canary)
    manifest = (adam / manifests.FILE).read_bytes()
    tf.saved_model.save(module, os.fspath(adam))
    (adam / manifests.FILE).write_bytes(manifest)
    canary.unlink()

    assert isinstance(load_rule(adam), rules.Adam)
    saved_model.read_manifest(adam)
    assert not canary.exists()
    saved_model.load_graph_unsafe(adam)
    assert canary.exists(), "the canary is dead, so that it proves nothing"


def test_foreign_graph_that_is_no_rule(tmp_path):
    with pytest.raises(FileNotFoundError):
        saved_model.load_graph_unsafe(tmp_path / "nothing")
    with pytest.raises(RuleFormatError, match="Expected a SavedModel"):
        saved_model.load_graph_unsafe(tmp_path)
    tf.saved_model.save(tf.Module(), os.fspath(tmp_path / "other"))
    with pytest.raises(RuleFormatError, match="function `initial_state`"):
        saved_model.load_graph_unsafe(tmp_path / "other")
