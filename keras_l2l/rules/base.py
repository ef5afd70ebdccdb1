"""The update rule: what turns gradients into updates."""

import abc
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
from keras import ops

from keras_l2l.rules import preprocessing
from keras_l2l.serialization import hub
from keras_l2l.serialization.saved_model import export_rule
from keras_l2l.serialization.variable_budget import (
    check_budget,
    variable_budget,
)

# A tensor of Keras's backend, a variable, or an array that becomes one.
Tensor: TypeAlias = Any


class RuleState(NamedTuple):
    """The hidden state of a rule: what it carries from step to step.

    Attributes:
        local: List with a structure of tensors for each parameter, which
            belong to it alone (moments, LSTM states).
        shared: Structure of tensors that belong to all parameters (a step
            count, an external memory).
    """

    local: list[Any]
    shared: Any


class UpdateRule(keras.layers.Layer, abc.ABC):
    """Base class of all update rules.

    A rule is a pure function from gradients, parameters and hidden state to
    updates and the next hidden state. It takes *lists* of tensors, since
    parameters may share a part of the state. The weights of a rule are its
    meta-parameters. The update is **added** to the parameter:

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
        trainable: Boolean. Whether meta-training changes the meta-parameters.
            Defaults to `True`.

    Example:

    >>> rule = keras_l2l.rules.Adam(0.1)
    >>> parameters = [keras.ops.zeros((2,))]
    >>> state = rule.initial_state(parameters)
    >>> updates, state = rule([np.array([3.0, -5.0])], parameters, state)
    >>> print(np.round(updates[0], 3))
    [-0.1  0.1]
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        dtype: Any = "float32",
        trainable: bool = True,
    ):
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

    def add_weight(
        self,
        shape: Sequence[int] | None = None,
        initializer: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> keras.Variable:
        """Adds a meta-parameter, as `keras.layers.Layer.add_weight` does.

        A rule that is built from a file gets no more than the file holds.

        Args:
            shape: Sequence of integers. Defaults to `None`, a scalar.
            initializer: Initializer. Defaults to `None`, that of Keras.
            dtype: The dtype. Defaults to `None`, that of the rule.
            **kwargs: See `keras.layers.Layer.add_weight`.

        Returns:
            A `keras.Variable`.
        """
        dtype = dtype or self.variable_dtype
        check_budget(kwargs.get("name"), shape, dtype)
        return super().add_weight(shape, initializer, dtype, **kwargs)

    @property
    def granularity(self) -> str:
        """The smallest part of a model whose update depends on it alone.

        `"coordinate"`, `"tensor"` or `"model"`. A rule with the granularity
        of a coordinate may be called on any pieces of its parameters: the
        updates are those of the whole parameters, in the same pieces.
        """
        return "model"

    @abc.abstractmethod
    def initial_state(self, parameters: Sequence[Tensor]) -> RuleState:
        """Returns the hidden state before the first step.

        It depends on shapes and dtypes alone: while `fit()` builds a model,
        its variables have no values yet. A rule that needs initial values
        reads them at the first step.

        Args:
            parameters: List of tensors (or variables) of any shapes.

        Returns:
            A `RuleState`.
        """

    @property
    def is_scale_invariant(self) -> bool:
        """Whether gradients that are all scaled alike change no update.

        To clip a gradient does not shorten the step of such a rule, so a
        guard shortens the step itself.
        """
        return False

    @property
    def reads_paths(self) -> bool:
        """Whether `named_initial_state` depends on the paths."""
        return False

    def named_initial_state(
        self,
        parameters: Sequence[Tensor],
        paths: Sequence[str | None] | None,
    ) -> RuleState:
        """Returns the initial hidden state of parameters with known paths.

        For rules whose update depends on the place of a parameter in the
        model. The decision must be kept in the state, because no later call
        has the paths. As for `initial_state`, only shapes and dtypes of the
        parameters may be used.

        Args:
            parameters: List of tensors (or variables) of any shapes.
            paths: List of strings, one for each parameter, as in
                `variable.path`: `"dense/kernel"`, or `""` for a parameter
                that is not in a model. `None` if they are not known.

        Returns:
            A `RuleState`. Defaults to `initial_state(parameters)`.
        """
        return self.initial_state(parameters)

    @abc.abstractmethod
    def call(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        state: RuleState,
    ) -> tuple[list[Tensor], RuleState]:
        """Computes one step.

        Args:
            gradients: List of tensors, shaped as `parameters`. They may hold
                non-finite values; the updates never do.
            parameters: List of tensors.
            state: A `RuleState`, from `initial_state` or the last step.

        Returns:
            Tuple `(updates, state)`: a list of tensors with the shapes and
            dtypes of `parameters`, and the next `RuleState`, with the
            structure, shapes and dtypes of `state`.
        """

    def evaluation_parameters(
        self, parameters: Sequence[Tensor], state: RuleState
    ) -> list[Tensor]:
        """Returns the parameters with which a model is to be evaluated.

        They differ from those with which it is trained for a rule that
        averages its iterates.

        Args:
            parameters: List of tensors, after a step.
            state: The `RuleState` after that step.

        Returns:
            List of tensors, shaped as `parameters`. Defaults to these.
        """
        return list(parameters)

    def diagnostics(
        self, state: Any, shared: Any, shape: tuple[int, ...]
    ) -> dict[str, float]:
        """Reads from the hidden state what steers the steps of one tensor.

        Args:
            state: The local hidden state of the tensor, after a step.
            shared: The shared hidden state after that step.
            shape: Tuple of integers, the shape of the tensor.

        Returns:
            Dict from names to floats. Defaults to none.
        """
        return {}

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "trainable": self.trainable,
        }

    def copy(self) -> "UpdateRule":
        """Returns a new rule with this configuration and meta-parameters.

        Returns:
            A rule of the same class.
        """
        with variable_budget(None):
            twin = type(self).from_config(self.get_config())
        twin.set_weights(self.get_weights())
        return twin

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the rule as a SavedModel directory with a manifest.

        Args:
            path: String or path of the directory to write.
            metadata: Dict with any of `"description"` (string), `"recipe"`
                (dict), `"seed"` (integer) and `"scores"` (dict).
                Defaults to `None`.

        Example:

        >>> rule = keras_l2l.rules.Adam(0.02)
        >>> rule.export("my_adam", metadata={"description": "Adam at 0.02."})
        >>> keras_l2l.load_rule("my_adam").name == rule.name
        True
        """
        export_rule(self, path, base_class=UpdateRule, metadata=metadata)

    def push(
        self,
        address: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        private: bool | None = None,
    ) -> str:
        """Exports the rule and uploads it to Hugging Face, in one commit.

        Args:
            address: String, `"hf://USER/NAME"`, whose repository is created if
                there is none; or `"hf://USER/NAME@BRANCH"`.
            metadata: As for `export`. Defaults to `None`.
            private: Boolean. Whether a repository that is created is private.
                Defaults to `None`, as the account has it.

        Returns:
            String, the address with the new commit, which `L2LOptimizer` and
            `load_rule` take.

        Raises:
            ValueError: If the address is none of Hugging Face, or if there is
                no such repository or branch for this user.
            ConnectionError: If the upload failed.
            ImportError: If the extra `keras-l2l[hub]` is not installed.

        Example:

        ```python
        address = rule.push("hf://user/name", metadata={"description": "…"})
        optimizer = keras_l2l.L2LOptimizer(address)
        ```
        """
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "rule")
            self.export(path, metadata=metadata)
            return hub.upload(path, address, private)


class CoordinatewiseRule(UpdateRule):
    """Base class of rules that treat every coordinate of every parameter alike.

    The coordinates of all parameters are concatenated, so that a step is one
    call of `update_coordinates` however many parameters there are.

    Args:
        name: String. The name of the layer.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.
        trainable: As for `UpdateRule`. Defaults to `True`.

    Example:

    >>> class SignDescent(keras_l2l.rules.CoordinatewiseRule):
    ...     def initial_coordinate_state(self, count):
    ...         return {}
    ...
    ...     def update_coordinates(self, gradient, parameter, state, shared):
    ...         return -0.01 * keras.ops.sign(gradient), state, shared
    >>> optimizer = keras_l2l.L2LOptimizer(SignDescent())
    """

    @property
    def granularity(self) -> str:
        return "coordinate"

    @abc.abstractmethod
    def initial_coordinate_state(self, count: Any) -> dict[str, Tensor]:
        """Returns the hidden state of coordinates before the first step.

        Args:
            count: Integer or scalar integer tensor: the number of
                coordinates.

        Returns:
            Dict of tensors `[count, ...]`.
        """

    def initial_shared_state(self) -> dict[str, Tensor]:
        """Returns the part of the state that all coordinates share.

        Returns:
            Dict of tensors. Defaults to an empty one.
        """
        return {}

    @abc.abstractmethod
    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: dict[str, Tensor],
        shared: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Computes one step of `[N]` coordinates.

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
    """The number of coordinates: an integer where the shape is known."""
    shape = ops.shape(tensor)
    if all(isinstance(size, int) for size in shape):
        return math.prod(shape)
    return ops.prod(ops.convert_to_tensor(shape))


def _concatenate(tensors, dtype):
    """Concatenates tensors of any shapes and dtypes to `[N]` of one dtype."""
    return _join(
        [ops.cast(ops.reshape(tensor, (-1,)), dtype) for tensor in tensors]
    )


def _join(tensors):
    """Concatenates `[n_i, ...]` to `[N, ...]`."""
    return tensors[0] if len(tensors) == 1 else ops.concatenate(tensors)


def _cut(tensor, sizes):
    """Splits `[N, ...]` into a list of `[n_i, ...]`."""
    if len(sizes) == 1:
        return [tensor]
    ends = [sum(sizes[:i]) for i in range(1, len(sizes))]
    return ops.split(tensor, ends)
