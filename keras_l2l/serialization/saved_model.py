"""Rule ↔ SavedModel directory and its manifest.

The directory holds a SavedModel (`saved_model.pb`, `variables/`) that plain
TensorFlow can call without this package, `manifest.json`, which says what
the rule is and how it was made, and `meta_parameters.npz`, the variables once
more, for JAX and PyTorch. Reading a rule back takes its variables and its
manifest alone: loading the *graph* of a SavedModel can run whatever its author
put there.
"""

import os
from pathlib import Path

import keras

from keras_l2l import checks
from keras_l2l.serialization import manifest as manifests
from keras_l2l.serialization.array_file import read_arrays, write_arrays
from keras_l2l.serialization.atomic_write import atomic_directory
from keras_l2l.serialization.configuration import build_rule
from keras_l2l.serialization.digest import digest_of
from keras_l2l.serialization.errors import (
    RuleFormatError,
    errors_name_path,
    format_error,
)
from keras_l2l.serialization.manifest import read_manifest
from keras_l2l.serialization.meta_parameters import (
    check_same,
    describe,
    named_variables,
    names_of_non_finite,
)
from keras_l2l.serialization.variable_budget import stored_variables

ARRAYS = "meta_parameters.npz"
# What an export has in its directory, and nothing else.
ENTRIES = {
    "assets",
    "fingerprint.pb",
    ARRAYS,
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
        RuntimeError: If Keras runs on another backend than TensorFlow.
        ValueError: If the rule or its metadata could not be read back.

    Example:

    >>> rule = keras_l2l.rules.Adam()
    >>> rule.export("my_adam", metadata={"description": "Untrained."})
    >>> module = tf.saved_model.load("my_adam")  # Without keras_l2l.
    >>> state = module.initial_state(3)
    >>> updates, state = module.update(tf.ones(3), tf.zeros(3), state)
    """
    checks.needs_tensorflow("`export`, which writes a SavedModel, needs")
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
        rule, base_class, variables, metadata or {}
    )
    from keras_l2l.serialization.graph import save_graph

    with atomic_directory(path) as new:
        save_graph(rule, variables, new)
        write_arrays(new / ARRAYS, {k: v.numpy() for k, v in variables.items()})
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
    with errors_name_path(path):
        return _load(manifest, path, base_class, custom_objects or {})


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
        RuntimeError: If Keras runs on another backend than TensorFlow.
    """
    checks.needs_tensorflow("`load_graph_unsafe` needs")
    manifests.check_directory(path)
    from keras_l2l.serialization.graph import load_graph

    with errors_name_path(path):
        return load_graph(path)


def _load(manifest, path, base_class, custom_objects):
    class_name, config = (manifest["rule"][k] for k in ("class_name", "config"))
    listed = _by_name(manifest["variables"])
    values = _read_variables(path, listed)
    rule = build_rule(
        class_name,
        config,
        base_class=base_class,
        custom_objects=custom_objects,
        budget=stored_variables(manifest["variables"]),
    )
    variables = named_variables(rule)
    check_same(listed, _by_name(describe(variables)), manifests.FILE)
    received = digest_of(class_name, config, values.values()).hex()
    if manifest.get("digest", received) != received:
        raise format_error(
            f"the digest that is in {manifests.FILE}",
            f"{received}, that of its configuration and its meta-parameters",
            "One of them was changed after the export: bring back what was "
            "exported. To change a setting, build a rule with it, give it "
            "the meta-parameters by `set_weights`, and export that.",
        )
    for name, variable in variables.items():
        variable.assign(values[name])
    return rule


def _refuse_what_is_no_export(path):
    """Only a directory that is a rule export, and no more, is replaced."""
    if not path.exists():
        return
    try:
        read_manifest(path)
        foreign = sorted({*os.listdir(path)} - ENTRIES)
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


def _read_variables(path, listed):
    """Dict of arrays, of the listed shapes and dtypes."""
    file = Path(path, ARRAYS)
    has_checkpoint = keras.config.backend() == "tensorflow"
    if has_checkpoint:
        values = _read_checkpoint(path, listed)
    elif file.exists():
        values = _read_arrays(file, listed)
    else:
        raise format_error(
            f"a file {ARRAYS}, from which JAX and PyTorch have the "
            "meta-parameters",
            sorted(os.listdir(path)),
            "Load the rule with KERAS_BACKEND=tensorflow, and export it again.",
        )
    if bad := names_of_non_finite(values):
        raise format_error(
            "finite meta-parameters", f"NaN or infinity in {bad}"
        )
    # Exports of earlier versions have no arrays beside the checkpoint.
    if has_checkpoint and file.exists():
        _check_equal(_read_arrays(file, listed), values)
    return values


def _read_checkpoint(path, listed):
    from keras_l2l.serialization.checkpoint import read_checkpoint

    try:
        return read_checkpoint(path, listed)
    except RuleFormatError:
        raise
    except Exception as error:  # The readers' own errors are of many types.
        raise format_error(
            "a readable checkpoint in variables/", error
        ) from error


def _read_arrays(file, listed):
    try:
        return read_arrays(file, listed)
    except (OSError, ValueError) as error:
        raise format_error(f"a readable file {ARRAYS}", error) from error


def _check_equal(received, expected):
    """Raises unless both files hold the same bytes."""
    bad = [
        name
        for name, value in expected.items()
        if received[name].tobytes() != value.tobytes()
    ]
    if bad:
        raise format_error(
            f"the meta-parameters of variables/ in {ARRAYS}",
            f"others for {bad}",
            "One of them was changed after the export: bring back what was "
            "exported.",
        )


def _by_name(variables):
    """Dict from names to `(shape, dtype)`, of what a manifest lists."""
    return {v["name"]: (v["shape"], v["dtype"]) for v in variables}
