"""The hidden state of a rule, to be kept in optimizer variables."""

import math

import keras
import numpy as np
from keras import ops, tree

from keras_l2l.optimizers.backends import backend
from keras_l2l.optimizers.keras_variables import path_of
from keras_l2l.rules import RuleState


class Slots:
    """The hidden state in optimizer variables.

    A plain object, as TensorFlow and Keras wrap the containers that they see
    in attributes.

    Args:
        values: `RuleState` of the optimizer variables; those of a variable
            that takes no part are `None`.
        dtypes: `RuleState` of the dtypes that the rule computes with.
    """

    def __init__(self, values, dtypes):
        self.values = values
        self.dtypes = dtypes

    def of(self, what, indices):
        """The `"values"` or `"dtypes"` of some variables."""
        state = getattr(self, what)
        return RuleState([state.local[i] for i in indices], state.shared)

    def diagnostics(self, rule, variables):
        """Dict from paths of variables to what `rule.diagnostics` reads."""
        return {
            path_of(variable): rule.diagnostics(
                local, self.values.shared, tuple(variable.shape)
            )
            for variable, local in zip(variables, self.values.local)
            if local is not None
        }


def create_slots(optimizer, variables, indices, state):
    """Creates the optimizer variables of a hidden state.

    Args:
        optimizer: An `L2LOptimizer`.
        variables: List of the variables that it is built for.
        indices: List of integers, which of them the rule updates.
        state: `RuleState` from `initial_state`, for these.

    Returns:
        A `Slots`.
    """
    local, dtypes = [None] * len(variables), [None] * len(variables)
    for i, initial in zip(indices, state.local):
        dtypes[i] = tree.map_structure(dtype_of, initial)
        with backend.colocated_with(variables[i]):
            local[i] = _add_slots(
                optimizer,
                path_of(variables[i]).replace("/", "_"),
                initial,
                variables[i],
            )
    return Slots(
        RuleState(local, _add_slots(optimizer, "shared", state.shared)),
        RuleState(dtypes, tree.map_structure(dtype_of, state.shared)),
    )


def _add_slots(optimizer, prefix, initial, variable=None):
    """A structure of tensors → the same of optimizer variables."""
    initial = _with_sorted_keys(initial)

    def add(path, value):
        shape, dtype = tuple(value.shape), dtype_of(value)
        if variable is not None and "float" in dtype:
            # What is shared, such as a step count, stays what it is.
            dtype = optimizer.state_dtype or dtype
        if variable is not None and optimizer.rule.granularity == "coordinate":
            shape = (math.prod(variable.shape), *shape[1:])
        return optimizer.add_variable(
            shape=shape,
            dtype=dtype,
            # Copied, as PyTorch would hold all coordinates in one place.
            initializer=lambda shape, dtype: ops.copy(
                ops.broadcast_to(ops.cast(value, dtype), shape)
            ),
            name="_".join([prefix, *map(str, path)]),
        )

    slots = [
        add(path, value) for path, value in tree.flatten_with_path(initial)
    ]
    return tree.pack_sequence_as(initial, slots)


def _with_sorted_keys(structure):
    """A structure whose leaves have one order, as files have, everywhere.

    PyTorch takes the entries of a dict in the order in which they were made.
    """
    if type(structure) is dict:
        return {k: _with_sorted_keys(structure[k]) for k in sorted(structure)}
    if isinstance(structure, list | tuple):
        items = map(_with_sorted_keys, structure)
        is_named = hasattr(structure, "_fields")
        kind = type(structure)
        return kind(*items) if is_named else kind(items)
    return structure


def initial_state(rule, variables, paths):
    """The values that the slots begin with.

    One coordinate stands for a variable where that is enough: the whole state
    of a large model would need its memory twice.

    Args:
        rule: An `UpdateRule`.
        variables: List of variables, which need not have values yet.
        paths: List of strings, one for each.

    Returns:
        A `RuleState`.

    Raises:
        ValueError: If the rule needs values of parameters to begin with.
    """
    if rule.granularity == "coordinate":
        state = rule.initial_state([ops.zeros((1,))])
        return RuleState(state.local * len(variables), state.shared)
    # While `fit()` builds a model, its variables have no values; what is read
    # from them then is arbitrary.
    unknown = [ops.full(v.shape, np.nan, dtype_of(v)) for v in variables]
    state = rule.named_initial_state(unknown, paths)
    for path, value in tree.flatten_with_path(state._asdict()):
        if "float" in dtype_of(value) and bool(ops.any(ops.isnan(value))):
            raise ValueError(
                "Argument `rule` must have an `initial_state` that depends on "
                "the shapes and dtypes of parameters alone: `fit()` may build "
                "the optimizer before they have values. What depends on their "
                "values is to be taken at the first step. Received: "
                f"rule={rule!r}, which at NaN begins with NaN at "
                f"{'/'.join(map(str, path))}"
            )
    return state


def dtype_of(value):
    """The name of the dtype of a tensor or variable."""
    return keras.backend.standardize_dtype(value.dtype)
