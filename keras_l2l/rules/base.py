"""The update rule: what turns gradients into updates."""

import abc
import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_l2l.rules import preprocessing
from keras_l2l.serialization.saved_model import export_rule


class RuleState(NamedTuple):
    """What a rule carries from one step to the next: its hidden state.

    Attributes:
        local: A list with, for each parameter, a structure of tensors that
            belong to it (moments, LSTM states).
        shared: A structure of tensors that belong to all parameters (a step
            count, an external memory).
    """

    local: list[Any]
    shared: Any


class UpdateRule(keras.layers.Layer, abc.ABC):
    """Base class of all update rules.

    A rule is a pure function from gradients, parameters and hidden state to
    updates and the next hidden state, over *lists* of tensors, as it may
    share something between parameters. Its weights are the meta-parameters.
    The update is **added** to the parameter:

    ```python
    state = rule.initial_state(parameters)
    updates, state = rule(gradients, parameters, state)
    parameters = [p + u for p, u in zip(parameters, updates)]
    ```

    Subclasses use `keras.ops` alone, create their weights in `__init__`
    (no weight depends on the shape of a parameter), and implement
    `initial_state` and `call`. Rules that treat each coordinate alike derive
    from `CoordinatewiseRule` instead.

    Args:
        name: String. The name of the layer.
        dtype: `"float32"` or `"float64"`. The dtype of the meta-parameters,
            of the hidden state and of the computation, whatever the dtype of
            the parameters. Defaults to `"float32"`.
    """

    def __init__(self, *, name=None, dtype="float32", trainable=True):
        super().__init__(
            name=name, dtype=dtype, trainable=trainable, autocast=False
        )
        # Squares of gradients and differences of losses need the range.
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(
                'Argument `dtype` must be "float32" or "float64"; the '
                "parameters may have any float dtype. "
                f"Received: dtype={dtype!r}"
            )
        self.built = True

    @property
    def granularity(self):
        """The smallest part of a model whose update depends on it alone.

        `"coordinate"`, `"tensor"` or `"model"`. If it is the coordinate, the
        update of parameters that were cut or concatenated is the update, cut
        or concatenated.
        """
        return "model"

    @abc.abstractmethod
    def initial_state(self, parameters):
        """The hidden state before the first step.

        It depends on shapes and dtypes alone: while `fit()` builds a model,
        its variables have no values yet. What depends on values is taken at
        the first step.

        Args:
            parameters: List of tensors (or variables) of any shapes.

        Returns:
            A `RuleState`.
        """

    @property
    def reads_paths(self):
        """Whether `named_initial_state` depends on the paths."""
        return False

    def named_initial_state(self, parameters, paths):
        """The hidden state before the first step, of parameters with names.

        For a rule that treats parameters by their place in the model.
        Whatever it decides by that must be in the state: no later call has
        the paths. Of the parameters it depends on shapes and dtypes alone.

        Args:
            parameters: List of tensors (or variables) of any shapes.
            paths: List of strings, one for each, as in `variable.path`:
                `"dense/kernel"`, or `""` for a parameter that is not in a
                model. `None` if they are not known.

        Returns:
            A `RuleState`. Defaults to `initial_state(parameters)`.
        """
        return self.initial_state(parameters)

    @abc.abstractmethod
    def call(self, gradients, parameters, state):
        """One step.

        Args:
            gradients: List of tensors, shaped as `parameters`. May hold
                non-finite values; the updates may not.
            parameters: List of tensors.
            state: A `RuleState`, from `initial_state` or the last step.

        Returns:
            Tuple `(updates, state)`: a list of tensors with the shapes and
            dtypes of `parameters`, and the next `RuleState`, with the
            structure, shapes and dtypes of `state`.
        """

    def evaluation_parameters(self, parameters, state):
        """Where the loss of the model is to be taken.

        Elsewhere than the gradients, for a rule that averages its iterates.

        Args:
            parameters: List of tensors, after a step.
            state: The `RuleState` after that step.

        Returns:
            List of tensors, shaped as `parameters`. Defaults to these.
        """
        return list(parameters)

    def get_config(self):
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "trainable": self.trainable,
        }

    def copy(self):
        """A new rule with the same configuration and meta-parameters."""
        twin = type(self).from_config(self.get_config())
        twin.set_weights(self.get_weights())
        return twin

    def export(self, path, *, metadata=None):
        """Writes the rule as a SavedModel directory with a manifest.

        Args:
            path: String or path of the directory to write.
            metadata: Dict with any of `"description"` (string), `"recipe"`
                (dict), `"seed"` (integer) and `"scores"` (dict).
                Defaults to `None`.
        """
        export_rule(self, path, base_class=UpdateRule, metadata=metadata)


class CoordinatewiseRule(UpdateRule):
    """Base class of rules that treat every coordinate of every parameter alike.

    The coordinates of all parameters are concatenated, so that a step is one
    call of `update_coordinates` however many parameters there are.
    """

    @property
    def granularity(self):
        return "coordinate"

    @abc.abstractmethod
    def initial_coordinate_state(self, count):
        """Dict of tensors `[count, ...]`: the hidden state of the coordinates.

        Args:
            count: Integer or scalar integer tensor.
        """

    def initial_shared_state(self):
        """Dict of tensors that all coordinates share. Defaults to none."""
        return {}

    @abc.abstractmethod
    def update_coordinates(self, gradient, parameter, state, shared):
        """One step on `[N]` coordinates.

        Args:
            gradient: Tensor `[N]` of the rule's dtype, finite.
            parameter: Tensor `[N]` of the rule's dtype.
            state: Dict of tensors `[N, ...]`.
            shared: Dict of tensors.

        Returns:
            Tuple `(update, state, shared)`, shaped as the arguments.
        """

    def initial_state(self, parameters):
        return RuleState(
            local=[
                self.initial_coordinate_state(_size(parameter))
                for parameter in parameters
            ],
            shared=self.initial_shared_state(),
        )

    def call(self, gradients, parameters, state):
        dtype = self.compute_dtype
        gradient = preprocessing.finite(_concatenate(gradients, dtype))
        parameter = _concatenate(parameters, dtype)
        joined = {
            key: _join([local[key] for local in state.local])
            for key in state.local[0]
        }
        update, joined, shared = self.update_coordinates(
            gradient, parameter, joined, state.shared
        )
        sizes = [_size(parameter) for parameter in parameters]
        updates = [
            ops.cast(ops.reshape(part, ops.shape(parameter)), parameter.dtype)
            for part, parameter in zip(_cut(update, sizes), parameters)
        ]
        parts = {key: _cut(value, sizes) for key, value in joined.items()}
        local = [
            {key: parts[key][i] for key in parts} for i in range(len(sizes))
        ]
        return updates, RuleState(local, shared)


def _size(tensor):
    """Number of coordinates: an integer where the shape is known."""
    shape = ops.shape(tensor)
    if all(isinstance(size, int) for size in shape):
        return math.prod(shape)
    return ops.prod(ops.convert_to_tensor(shape))


def _concatenate(tensors, dtype):
    """List of tensors of any shapes and dtypes → `[N]` of one dtype."""
    return _join(
        [ops.cast(ops.reshape(tensor, (-1,)), dtype) for tensor in tensors]
    )


def _join(tensors):
    return tensors[0] if len(tensors) == 1 else ops.concatenate(tensors)


def _cut(tensor, sizes):
    """`[N, ...]` → a list of `[n_i, ...]`."""
    if len(sizes) == 1:
        return [tensor]
    ends = [sum(sizes[:i]) for i in range(1, len(sizes))]
    return ops.split(tensor, ends)
