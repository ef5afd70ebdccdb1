"""A digest of a rule: what it computes with, and nothing else."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

# Names and seeds of a rule do not change what it computes, once its
# meta-parameters have their values.
_WITHOUT_EFFECT = ("name", "seed")
_SUFFIX_WITHOUT_EFFECT = "_initializer"


def digest(rule: keras.layers.Layer) -> bytes:
    """Computes the digest of a rule: class, configuration, meta-parameters.

    Args:
        rule: A `keras.layers.Layer` with a configuration.

    Returns:
        32 bytes; see `digest_of`.
    """
    class_name = keras.saving.get_registered_name(type(rule))
    # Whatever is no JSON can be told apart within this process alone.
    config = json.loads(json.dumps(rule.get_config(), default=repr))
    return digest_of(class_name, config, rule.get_weights())


def digest_of(
    class_name: str, config: dict[str, Any], values: Iterable[np.ndarray]
) -> bytes:
    """Computes the digest of a rule from its parts.

    It is the SHA-256 of the registered name of the class, of the
    configuration as JSON, and of the dtype, shape and bytes of each
    meta-parameter. Names, seeds, initializers (entries that end in
    `_initializer`) and modules are left out of the configuration, and of
    those of rules within it: a rule with its meta-parameters computes the
    same whatever they are.

    It guards against accidents: a configuration that was edited, or files of
    two rules that were mixed up. It does not guard against an attacker, who
    can compute the digest of a changed rule as well.

    Args:
        class_name: String, registered with Keras.
        config: Dict of what JSON has.
        values: Arrays, in the order of the rule's variables.

    Returns:
        32 bytes.
    """
    text = json.dumps([class_name, _effective(config)], sort_keys=True)
    result = hashlib.sha256(text.encode())
    for value in values:
        result.update(f"{value.dtype}{list(value.shape)}".encode())
        result.update(value.tobytes())
    return result.digest()


def _effective(config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a configuration that what is computed depends on."""
    return {
        key: _nested(value)
        for key, value in config.items()
        if key not in _WITHOUT_EFFECT
        and not key.endswith(_SUFFIX_WITHOUT_EFFECT)
    }


def _nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_nested(item) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("config"), dict) and "class_name" in value:
        name = value.get("registered_name") or value["class_name"]
        return [name, _effective(value["config"])]
    return {key: _nested(item) for key, item in value.items()}
