"""A rule within the config of an optimizer.

Such a config can come from a stranger, in a `.keras` file. It is read as
data, to the standard of `manifest`.
"""

import base64
import binascii
import zlib

import keras
import numpy as np

from keras_l2l.rules import UpdateRule
from keras_l2l.serialization import manifest
from keras_l2l.serialization.meta_parameters import to_bytes


def serialize(rule):
    """Dict of the class, the configuration and the meta-parameters."""
    return {
        "class_name": keras.saving.get_registered_name(type(rule)),
        "config": rule.get_config(),
        "meta_parameters": _Base64(
            base64.b64encode(zlib.compress(to_bytes(rule))).decode()
        ),
    }


def deserialize(config, custom_objects=None):
    """The rule that `serialize` described.

    Args:
        config: Dict, from `serialize`.
        custom_objects: Dict from registered names to classes of rules and
            initializers, beside those that are registered with Keras.
            Defaults to `None`.

    Returns:
        An `UpdateRule`.

    Raises:
        ValueError: If the config asks for what is not known, or is damaged.
    """
    class_name = config.get("class_name")
    try:
        rule = manifest.build_rule(
            {"rule": {"class_name": str(class_name), **_part(config)}},
            UpdateRule,
            _known(class_name, custom_objects),
            "a config",
        )
    except manifest.RuleFormatError as error:
        raise ValueError(
            "The rule in the config of the optimizer cannot be made. Its "
            "class must have been registered with "
            "`@keras.saving.register_keras_serializable()` when the model is "
            "loaded, or be passed in `custom_objects`. "
            f"Received: class_name={class_name!r} ({error})"
        ) from error
    rule.set_weights(_decode(config.get("meta_parameters"), rule.get_weights()))
    return rule


class _Base64(str):
    """Base64 that stays short when a config is printed."""

    __slots__ = ()

    def __repr__(self):
        return f"<{len(self)} characters of base64>"


def _part(config):
    inner = config.get("config")
    return {"config": inner if isinstance(inner, dict) else {}}


def _known(class_name, custom_objects):
    """The rules and initializers that Keras knows by a registered name."""
    candidates = {
        **keras.saving.get_custom_objects(),
        **(custom_objects or {}),
        # Includes what stands in a `custom_object_scope`.
        class_name: keras.saving.get_registered_object(
            class_name, custom_objects
        ),
    }
    kinds = (UpdateRule, keras.initializers.Initializer)
    return {
        name: value
        for name, value in candidates.items()
        if isinstance(value, type) and issubclass(value, kinds)
    }


def _decode(text, like):
    """Base64 → a list of arrays with the shapes and dtypes of `like`."""
    size = sum(value.nbytes for value in like)
    try:
        # No more than is needed, whatever the data would expand to.
        data = zlib.decompressobj().decompress(
            base64.b64decode(text, validate=True), size + 1
        )
    except (TypeError, binascii.Error, ValueError, zlib.error) as error:
        raise ValueError(
            "The meta-parameters in the config of the optimizer are damaged: "
            f"{error}. Save the model again, or pass the rule itself"
        ) from error
    if len(data) != size:
        raise ValueError(
            "The meta-parameters in the config of the optimizer do not fit "
            f"its rule. Expected: {size} bytes. Received: "
            f"{len(data) if len(data) < size else 'more'}. Save the model "
            "again with this version"
        )
    values = []
    for value in like:
        part, data = data[: value.nbytes], data[value.nbytes :]
        values.append(np.frombuffer(part, value.dtype).reshape(value.shape))
    if not all(np.isfinite(value).all() for value in values):
        raise ValueError(
            "The meta-parameters in the config of the optimizer must be "
            "finite. Received: NaN or infinity. Its meta-training diverged: "
            "use an earlier state of it"
        )
    return values
