"""A rule as data: its manifest, its variables, its SavedModel."""

from keras_l2l.serialization.errors import RuleFormatError
from keras_l2l.serialization.hub import upload
from keras_l2l.serialization.manifest import read_manifest
from keras_l2l.serialization.saved_model import load_graph_unsafe

__all__ = [
    "RuleFormatError",
    "load_graph_unsafe",
    "read_manifest",
    "upload",
]
