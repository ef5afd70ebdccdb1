"""The hidden state of a rule, to be kept in optimizer variables."""

import keras
import numpy as np
from keras import ops, tree

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


def initial_state(rule, variables, paths):
    """What the slots begin with.

    Of a variable one coordinate, if that is enough: of a large model the whole
    would need memory for a second state.

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
