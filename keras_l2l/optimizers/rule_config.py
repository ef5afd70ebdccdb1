"""A rule within the config of an optimizer.

Such a config can come from a stranger, in a `.keras` file. It is read as
data, as the manifest of an exported rule is; see `serialization`.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_l2l import presets
from keras_l2l.rules import UpdateRule
from keras_l2l.serialization import hub
from keras_l2l.serialization.configuration import build_rule
from keras_l2l.serialization.digest import digest_of
from keras_l2l.serialization.errors import RuleFormatError
from keras_l2l.serialization.meta_parameters import to_bytes
from keras_l2l.serialization.variable_budget import MAX_VARIABLES, stored_bytes

# Meta-parameters of random floats hardly shrink. A few kilobytes that expand
# to more than this were made to fill the memory.
_SIZE_LIMIT = 2**25  # bytes
_EXPANSION_LIMIT = 10


def serialize(
    rule: UpdateRule, origin: str | None = None
) -> dict[str, Any] | str:
    """Describes a rule by its class, configuration and meta-parameters.

    Args:
        rule: An `UpdateRule`.
        origin: String, the preset or the pinned address that the rule is
            equal to. Defaults to `None`, none.

    Returns:
        Dict of what JSON has; a preset is its name. Its `"digest"` is that of
        `digest.digest_of`, and is missing if the configuration holds what
        JSON has not. Its `"source"` is the address, for the reader: the
        meta-parameters are in the dict.

    Raises:
        ValueError: If the rule has more variables than could be read back.
    """
    if origin is not None and origin in presets.names():
        return origin
    values = rule.get_weights()
    if len(values) > MAX_VARIABLES:
        raise ValueError(
            f"A rule that is saved may have at most {MAX_VARIABLES} "
            f"variables. Received: {rule.name!r} with {len(values)} of them."
        )
    class_name = keras.saving.get_registered_name(type(rule))
    config = rule.get_config()
    try:
        config = json.loads(json.dumps(config))
        digest = {"digest": digest_of(class_name, config, values).hex()}
    except (TypeError, ValueError):  # Keras has a JSON of its own.
        digest = {}
    return {
        "class_name": class_name,
        "config": config,
        "meta_parameters": _Base64(
            base64.b64encode(zlib.compress(to_bytes(rule))).decode()
        ),
        **digest,
        **({"source": origin} if origin else {}),
    }


def source(config: Any) -> str | None:
    """Reads from what address a rule came, which nothing is read from.

    Args:
        config: From `serialize`.

    Returns:
        A string; `None` if there is none.
    """
    address = config.get("source") if isinstance(config, dict) else None
    return address if hub.is_address(address) else None


def deserialize(
    config: Any, custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Builds the rule that `serialize` described.

    Args:
        config: From `serialize`, or anything else that names a rule.
        custom_objects: Dict from registered names to classes of rules and
            initializers, beside those that are registered with Keras.
            Defaults to `None`.

    Returns:
        An `UpdateRule`; the name of a preset or of a path as it is.

    Raises:
        ValueError: If the config asks for what is not known, or is damaged,
            or asks for a download.
    """
    if hub.is_address(config):
        raise ValueError(
            "The rule in the config of the optimizer must be in it, or a "
            f"preset. Received: {config!r}. Nothing is downloaded because a "
            "file says so: pass the address to `L2LOptimizer`"
        )
    if not isinstance(config, dict):
        return config
    class_name = str(config.get("class_name"))
    data = _decode(config.get("meta_parameters"))
    inner = config.get("config")
    inner = inner if isinstance(inner, dict) else {}
    known = _known(class_name, custom_objects)
    try:
        rule = build_rule(
            class_name,
            inner,
            base_class=UpdateRule,
            custom_objects=known,
            budget=stored_bytes(len(data)),
        )
    except RuleFormatError as error:
        hint = (
            ""
            if class_name in known
            else " Or register it with "
            "`@keras.saving.register_keras_serializable()` before the model "
            "is loaded."
        )
        raise ValueError(
            f"The rule in the config of the optimizer cannot be made: {error}"
            f"{hint}"
        ) from error
    values = _split(data, rule.get_weights())
    if "digest" in config:
        received = digest_of(class_name, inner, values).hex()
        if config["digest"] != received:
            raise ValueError(
                "The rule in the config of the optimizer was changed after it "
                "was saved: its configuration and its meta-parameters must "
                f"have the digest {config['digest']!s:.64}. "
                f"Received: {received}. Bring back what was saved"
            )
    rule.set_weights(values)
    return rule


class _Base64(str):
    """Base64 that stays short when a config is printed."""

    __slots__ = ()

    def __repr__(self):
        return f"<{len(self)} characters of base64>"


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


def _decode(text):
    """Base64 → the bytes of all meta-parameters."""
    try:
        compressed = base64.b64decode(text, validate=True)
        limit = max(_SIZE_LIMIT, _EXPANSION_LIMIT * len(compressed))
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(compressed, limit)
    except (TypeError, binascii.Error, ValueError, zlib.error) as error:
        raise ValueError(
            "The meta-parameters in the config of the optimizer are damaged. "
            f"Received: {text!r:.50} ({error}). Save the model again"
        ) from error
    if not decompressor.eof:
        raise ValueError(
            "The meta-parameters in the config of the optimizer are damaged. "
            f"Received: {len(compressed)} bytes that are cut, or expand to "
            f"more than {limit}. Save the model again"
        )
    return data


def _split(data, like):
    """Bytes → a list of arrays with the shapes and dtypes of `like`."""
    size = sum(value.nbytes for value in like)
    if len(data) != size:
        raise ValueError(
            "The meta-parameters in the config of the optimizer do not fit "
            f"its rule. Expected: {size} bytes. Received: {len(data)}. Save "
            "the model again with this version"
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
