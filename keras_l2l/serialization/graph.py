"""The graph of a rule, which plain TensorFlow calls without this package."""

import os

import keras
import tensorflow as tf

from keras_l2l.serialization.errors import format_error
from keras_l2l.serialization.meta_parameters import SEPARATOR

_PARTS_OF_STATE = ("local", "shared")


def save_graph(rule, variables, path):
    """Writes a SavedModel; see `saved_model.export_rule`.

    Args:
        rule: An `UpdateRule`, on which this leaves traces.
        variables: Dict from names to its variables.
        path: String or path of an empty directory.
    """
    module, signatures = _module(rule, variables)
    tf.saved_model.save(module, os.fspath(path), signatures=signatures)


def load_graph(path):
    """Loads a SavedModel, **which can run what its author planted**.

    Args:
        path: String or path of its directory.

    Returns:
        The loaded module.

    Raises:
        RuleFormatError: If it is none, or not of a rule.
    """
    try:
        module = tf.saved_model.load(os.fspath(path))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise format_error("a SavedModel", error) from error
    for name in ("initial_state", "update"):
        if not callable(getattr(module, name, None)):
            raise format_error(f"a function `{name}` in its SavedModel", "none")
    return module


def _module(rule, variables):
    """`(tf.Module, signatures)`: the rule on `n` coordinates."""
    dtype = rule.compute_dtype
    count = tf.TensorSpec([], tf.int32, "n")

    def state_of(n):
        return rule.named_initial_state([tf.zeros([n], dtype)], [""])

    # Of an unknown number of coordinates: a rule may go by that.
    template = (
        tf.function(state_of, autograph=False)
        .get_concrete_function(count)
        .structured_outputs
    )
    keys = list(_flatten(template))

    @tf.function(autograph=False, input_signature=[count])
    def initial_state(n):
        return _flatten(state_of(n))

    coordinates = tf.TensorSpec([None], dtype)
    tensors = initial_state.get_concrete_function().structured_outputs
    specs = {
        key: tf.TensorSpec(tensor.shape, tensor.dtype, key)
        for key, tensor in tensors.items()
    }

    @tf.function(
        autograph=False, input_signature=[coordinates, coordinates, specs]
    )
    def update(gradients, parameters, state):
        local, shared = keras.tree.pack_sequence_as(
            (template.local[0], template.shared), [state[key] for key in keys]
        )
        updates, state = rule(
            [gradients],
            [parameters],
            template._replace(local=[local], shared=shared),
        )
        return updates[0], _flatten(state)

    @tf.function(autograph=False)
    def update_signature(gradients, parameters, **state):
        updates, state = update(gradients, parameters, state)
        return {"updates": updates, **state}

    module = tf.Module()
    module.meta_parameters = {k: v.value for k, v in variables.items()}
    module.initial_state = initial_state
    module.update = update
    return module, {
        "initial_state": initial_state,
        "update": update_signature.get_concrete_function(
            gradients=coordinates, parameters=coordinates, **specs
        ),
    }


def _flatten(state):
    """`RuleState` of one parameter → dict of tensors by unambiguous keys."""
    leaves = keras.tree.flatten_with_path((state.local[0], state.shared))
    flat = {
        SEPARATOR.join([_PARTS_OF_STATE[part], *map(str, path)]): leaf
        for (part, *path), leaf in leaves
    }
    if len(flat) < len(leaves):
        raise ValueError(
            f"The keys of a rule's state, joined by {SEPARATOR!r}, must "
            f"differ. Received: {[path for path, _ in leaves]}"
        )
    return flat
