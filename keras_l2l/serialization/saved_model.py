"""Rule ↔ SavedModel directory and its manifest.

The directory holds a SavedModel (`saved_model.pb`, `variables/`) that plain
TensorFlow can call without this package, and `manifest.json`, which says what
the rule is and how it was made. Reading a rule back takes its variables and
its manifest alone: loading the *graph* of a SavedModel can run whatever its
author put there.
"""

import os
from pathlib import Path

import keras
import tensorflow as tf

from keras_l2l.serialization import manifest as manifests
from keras_l2l.serialization.atomic_write import atomic_directory
from keras_l2l.serialization.manifest import (
    RuleFormatError,
    format_error,
    read_manifest,
)
from keras_l2l.serialization.meta_parameters import (
    SEPARATOR,
    named_variables,
    names_of_non_finite,
)

__all__ = [
    "RuleFormatError",
    "export_rule",
    "load_graph_unsafe",
    "load_rule",
    "read_manifest",
]

_PARTS_OF_STATE = ("local", "shared")
_CHECKPOINT_KEY = "meta_parameters/{}/.ATTRIBUTES/VARIABLE_VALUE"
_OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ENTRIES_OF_EXPORT = {
    "assets",
    "fingerprint.pb",
    "saved_model.pb",
    "variables",
    manifests.FILE,
}


def export_rule(rule, path, *, base_class, metadata=None):
    """Writes a rule as a SavedModel directory with a manifest.

    The SavedModel is a `tf.Module` with two functions for any number `n` of
    coordinates, which plain TensorFlow calls without this package:
    `initial_state(n)` gives the state, a dict of tensors, and
    `update(gradients, parameters, state)` gives `(updates, state)`, with
    gradients, parameters and updates `[n]`. The keys of the state are
    `local__...` and `shared__...`, after the two parts of `RuleState`. The
    signatures of the same names take and return the tensors one by one.

    The directory is written whole or not at all; see
    `atomic_write.atomic_directory`. An earlier export at `path` is replaced.

    Args:
        rule: An instance of `base_class`.
        path: String or path of the directory to write.
        base_class: The class from which a rule must derive to be read back.
        metadata: Dict that goes into the manifest, with any of
            `"description"` (string), `"recipe"` (dict: how the rule was
            meta-trained), `"seed"` (integer) and `"scores"` (dict).
            Defaults to `None`.

    Raises:
        FileExistsError: If `path` holds anything but a rule export.
        ValueError: If the rule or its metadata could not be read back.

    Example:

    >>> rule = keras_l2l.rules.Adam()
    >>> rule.export("my_adam", metadata={"description": "Untrained."})
    >>> module = tf.saved_model.load("my_adam")  # Without keras_l2l.
    >>> state = module.initial_state(3)
    >>> updates, state = module.update(tf.ones(3), tf.zeros(3), state)
    """
    path = Path(path).resolve()
    _refuse_what_is_no_export(path)
    # A copy, so that SavedModel leaves no trace on the user's rule.
    rule = rule.copy()
    variables = named_variables(rule)
    if bad := names_of_non_finite({k: v.numpy() for k, v in variables.items()}):
        raise ValueError(
            "Argument `rule` must have finite meta-parameters. Received: "
            f"NaN or infinity in {bad}. Export it as it was before it diverged."
        )
    manifest = manifests.write_manifest(
        rule, base_class, variables, metadata or {}, path
    )
    with atomic_directory(path) as new:
        module, signatures = _module(rule, variables)
        tf.saved_model.save(module, os.fspath(new), signatures=signatures)
        (new / manifests.FILE).write_bytes(manifest)


def load_rule(path, *, base_class, custom_objects=None):
    """Reads a rule from its variables and its manifest; runs no graph.

    The network is built by the code of this package, so that a directory
    from a stranger is data alone.

    Args:
        path: String or path of a directory that `export_rule` wrote.
        base_class: The class from which the rule, and those within it, must
            derive. Nothing else is built.
        custom_objects: Dict from registered names to classes: rules and
            initializers which are not of this package or of Keras. Nothing
            else is looked up or imported. Defaults to `None`.

    Returns:
        An instance of `base_class`, equal to the exported one.

    Raises:
        FileNotFoundError: If `path` does not exist.
        NotADirectoryError: If `path` is no directory.
        RuleFormatError: If the directory is no rule export, or if its
            manifest and its variables do not fit each other or this package.
    """
    manifest = read_manifest(path)
    rule = manifests.build_rule(
        manifest, base_class, custom_objects or {}, path
    )
    variables = named_variables(rule)
    expected = {
        name: (list(variable.shape), variable.dtype)
        for name, variable in variables.items()
    }
    listed = {
        variable["name"]: (variable["shape"], variable["dtype"])
        for variable in manifest["variables"]
    }
    _check_variables(listed, expected, manifests.FILE, path)
    values = _read_checkpoint(expected, path)
    if bad := names_of_non_finite(values):
        raise format_error(
            path, "finite meta-parameters", f"NaN or infinity in {bad}"
        )
    for name, variable in variables.items():
        variable.assign(values[name])
    return rule


def load_graph_unsafe(path):
    """Loads the graph of an exported rule, as plain TensorFlow does.

    **A SavedModel is a program.** Loading one can already run operations
    that its author planted, before any function of it is called: they can
    read, write and overwrite files with your rights. Call this only on a
    directory that you made, or whose author you trust as you would trust
    the author of a script. `load_rule` needs no such trust.

    Args:
        path: String or path of the directory of a SavedModel.

    Returns:
        The loaded module, with `initial_state(n)` and
        `update(gradients, parameters, state)`; see `export_rule`.

    Raises:
        FileNotFoundError: If `path` does not exist.
        NotADirectoryError: If `path` is no directory.
        RuleFormatError: If it holds no SavedModel with these functions.
    """
    manifests.check_directory(path)
    try:
        module = tf.saved_model.load(os.fspath(path))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise format_error(path, "a SavedModel", error) from error
    for name in ("initial_state", "update"):
        if not callable(getattr(module, name, None)):
            raise format_error(
                path, f"a function `{name}` in its SavedModel", "none"
            )
    return module


def _refuse_what_is_no_export(path):
    """Only a directory that is a rule export, and no more, is replaced."""
    if not path.exists():
        return
    try:
        read_manifest(path)
        foreign = sorted({*os.listdir(path)} - _ENTRIES_OF_EXPORT)
        reason = f"it also holds {foreign}." if foreign else ""
    except (NotADirectoryError, RuleFormatError) as error:
        reason = str(error)
    if reason:
        raise FileExistsError(
            "Argument `path` must be a new directory, or that of an exported "
            "rule with nothing else in it, which is then replaced. "
            f"Received: path={os.fspath(path)!r}, which is neither: {reason} "
            "Choose another path, or remove what is there."
        )


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


def _read_checkpoint(expected, path):
    """Dict of arrays, of the expected shapes and dtypes."""
    try:
        reader = tf.train.load_checkpoint(
            os.path.join(path, "variables", "variables")
        )
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
        keys = {_CHECKPOINT_KEY.format(name): name for name in expected}
        received = {
            keys.get(key, key): (shapes[key], dtypes[key].name)
            for key in shapes
            if key != _OBJECT_GRAPH_KEY
        }
        _check_variables(received, expected, "its checkpoint", path)
        return {name: reader.get_tensor(key) for key, name in keys.items()}
    except RuleFormatError:
        raise
    except Exception as error:  # The reader's own errors are of many types.
        raise format_error(
            path, "a readable checkpoint in variables/", error
        ) from error


def _check_variables(received, expected, where, path):
    """Compares two dicts from names to `(shape, dtype)`."""
    problems = [
        f"{name!r}: expected {expected.get(name, 'no such variable')}, "
        f"received {received.get(name, 'none')}"
        for name in sorted(expected.keys() | received.keys())
        if expected.get(name) != received.get(name)
    ]
    if problems:
        raise format_error(
            path, f"the variables of the rule in {where}", "; ".join(problems)
        )
