"""One rule for each group of parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_l2l.rules.base import RuleState, Tensor, UpdateRule
from keras_l2l.rules.parameter_groups import Selection


@keras.saving.register_keras_serializable(package="keras_l2l")
class Grouped(UpdateRule):
    """A rule for each group of parameters.

    The paper uses one rule for the kernels of convolutions and another for
    everything else. The rules are trained, saved and used as one rule. What a
    rule shares between parameters (averages, a memory) is shared within its
    group.

    A group is selected by the rank, the shape or the size of its tensors, or
    by their paths, as in `variable.path`: `"conv2d_1/kernel"`. A parameter
    belongs to a group if it fits every argument that names the group, and in
    an argument at least one of the group's values. No parameter may belong to
    two groups. Exactly one group is named by no argument: it gets the
    parameters that fit no other. To select by the class of a layer, use the
    paths from `rules.paths_of`.

    The groups are decided when the hidden state is created, and are a part of
    it, so that they stay the same while an optimizee trains and when it is
    saved. `L2LOptimizer` and `KerasTask` know the paths of parameters; for
    other tensors call `named_initial_state`. The exported graph takes a
    vector without a path and of unknown size.

    Args:
        rules: Dict from the names of the groups to their `UpdateRule`s, all
            of one dtype.
        ranks: Dict from names of groups to the rank of their tensors, an
            integer or a sequence of integers. Kernels of 2D convolutions have
            rank 4, those of dense layers 2, biases 1. Defaults to `None`.
        shapes: Dict from names of groups to the shape of their tensors, a
            tuple or a sequence of tuples, in which `None` is any size:
            `(5, 5, None, None)`. Defaults to `None`.
        sizes: Dict from names of groups to the fewest and the most
            coordinates that their tensors have, a pair or a sequence of
            pairs, in which `None` is no bound: `(10_000, None)`.
            Defaults to `None`.
        paths: Dict from names of groups to a glob pattern for the paths of
            their tensors, or a sequence of patterns. `*` matches `/`, too. A
            pattern stands for a whole path or for the last names in it:
            `"bias"`, `"conv2d/kernel"`, `"encoder/*"`. Names may leave out
            the number that Keras appends, which differs from model to model:
            `"conv2d/kernel"` fits `"sequential/conv2d_1/kernel"`.
            Defaults to `None`.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to that of the rules.

    Raises:
        ValueError: If the rules, or the criteria of the groups, are not as
            described; by `initial_state`, if a parameter fits two groups.

    Example:

    >>> rule = keras_l2l.rules.Grouped(
    ...     {
    ...         "convolutions": keras_l2l.rules.CoordinatewiseLSTM(),
    ...         "others": keras_l2l.rules.CoordinatewiseLSTM(),
    ...     },
    ...     ranks={"convolutions": 4},
    ... )
    >>> rule.groups_of(model.trainable_variables)
    ['convolutions', 'others', 'others', 'others']

    The same rules, for a model whose layers have other names:

    >>> rule = keras_l2l.rules.Grouped(
    ...     rule.rules,
    ...     paths={
    ...         "convolutions": keras_l2l.rules.paths_of(model, "Conv2D")
    ...     },
    ... )
    >>> rule.groups_of(model.trainable_variables)
    ['convolutions', 'convolutions', 'others', 'others']

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.3.
    """

    def __init__(
        self,
        rules: Mapping[str, UpdateRule],
        ranks: Mapping[str, Any] | None = None,
        shapes: Mapping[str, Any] | None = None,
        sizes: Mapping[str, Any] | None = None,
        paths: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        _check_rules(rules)
        dtypes = {rule.compute_dtype for rule in rules.values()}
        super().__init__(**{"dtype": min(dtypes), **kwargs})
        if dtypes != {self.compute_dtype}:
            raise ValueError(
                "Argument `rules` must have rules of one dtype, which is that "
                f"of the group. Received: rules of {sorted(dtypes)}, "
                f"dtype={self.compute_dtype}"
            )
        self._selection = Selection(rules.keys(), ranks, shapes, sizes, paths)
        self.rules = rules

    @property
    def granularity(self) -> str:
        # Never coordinates: in one vector, tensors would lose their groups.
        kinds = {rule.granularity for rule in self.rules.values()}
        return "model" if "model" in kinds else "tensor"

    @property
    def reads_paths(self) -> bool:
        return self._selection.reads_paths or any(
            rule.reads_paths for rule in self.rules.values()
        )

    def groups_of(
        self,
        parameters: Sequence[Tensor],
        paths: Sequence[str | None] | None = None,
    ) -> list[str]:
        """Returns the group of each parameter.

        Args:
            parameters: List of tensors or variables.
            paths: List of strings, see `named_initial_state`. Defaults to
                `None`: the paths of the variables.

        Returns:
            List of strings, names of groups.

        Raises:
            ValueError: If a parameter fits two groups, or if its path is
                needed and not known.
        """
        return [
            self._selection.group_of(tuple(parameter.shape), path)
            for parameter, path in zip(
                parameters, _paths(parameters, paths), strict=True
            )
        ]

    def initial_state(self, parameters):
        return self.named_initial_state(parameters, None)

    def named_initial_state(self, parameters, paths):
        # The key of a parameter's state is its group, at all later steps.
        local: list[Any] = [None] * len(parameters)
        shared: dict[str, Any] = {}
        paths = _paths(parameters, paths)
        groups = _indices(self.groups_of(parameters, paths))
        for name, rule in self.rules.items():
            indices = groups.get(name, [])
            state = (
                rule.named_initial_state(
                    [parameters[i] for i in indices],
                    [paths[i] for i in indices],
                )
                if indices
                else _dummy_state(rule)
            )
            shared[name] = state.shared
            for i, value in zip(indices, state.local):
                local[i] = {name: value}
        return RuleState(local, shared)

    def call(self, gradients, parameters, state):
        updates: list[Any] = [None] * len(parameters)
        local: list[Any] = [None] * len(parameters)
        shared: dict[str, Any] = {}
        parts = _parts(state)
        for name, rule in self.rules.items():
            if name not in parts:
                shared[name] = _advance_shared_state(rule, state.shared[name])
                continue
            indices, part = parts[name]
            received, next_state = rule(
                [gradients[i] for i in indices],
                [parameters[i] for i in indices],
                part,
            )
            shared[name] = next_state.shared
            for i, update, value in zip(indices, received, next_state.local):
                updates[i], local[i] = update, {name: value}
        return updates, RuleState(local, shared)

    def evaluation_parameters(self, parameters, state):
        result = list(parameters)
        for name, (indices, part) in _parts(state).items():
            received = self.rules[name].evaluation_parameters(
                [parameters[i] for i in indices], part
            )
            for i, value in zip(indices, received):
                result[i] = value
        return result

    def get_config(self):
        return {
            **super().get_config(),
            "rules": {
                name: keras.saving.serialize_keras_object(rule)
                for name, rule in self.rules.items()
            },
            **self._selection.get_config(),
        }

    @classmethod
    def from_config(cls, config):
        rules = {
            name: keras.saving.deserialize_keras_object(rule)
            for name, rule in config["rules"].items()
        }
        return cls(**{**config, "rules": rules})


def _paths(parameters, paths):
    """The given paths, or those of the variables; `None` for a tensor."""
    if paths is not None:
        return paths
    return [getattr(parameter, "path", None) for parameter in parameters]


def _indices(groups):
    """Dict from the names of groups to the indices of their parameters."""
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(groups):
        indices.setdefault(name, []).append(index)
    return indices


def _parts(state):
    """Dict from the names of groups to their indices and their `RuleState`."""
    groups = [next(iter(local)) for local in state.local]
    return {
        name: (
            indices,
            RuleState(
                [state.local[i][name] for i in indices], state.shared[name]
            ),
        )
        for name, indices in _indices(groups).items()
    }


def _advance_shared_state(rule, shared):
    """A rule's shared state, advanced by a step without parameters.

    Independent parameters may be updated in separate calls. A step count that
    they share then advances in the call of any of them.
    """
    if rule.granularity == "model":
        return shared
    tensors = _dummy_tensors(rule)
    state = RuleState(_dummy_state(rule).local, shared)
    _, state = rule(tensors, tensors, state)
    return state.shared


def _dummy_tensors(rule):
    return [ops.zeros((1,), rule.compute_dtype)]


def _dummy_state(rule):
    return rule.named_initial_state(_dummy_tensors(rule), [""])


def _check_rules(rules):
    problem = (
        "Argument `rules` must be a dict from names, which are identifiers, "
        "to different instances of `UpdateRule`. "
        f"Received: rules={rules!r}"
    )
    if not isinstance(rules, dict) or not rules:
        raise ValueError(problem)
    # The names are part of those of the state in an exported graph.
    if not all(isinstance(n, str) and n.isidentifier() for n in rules):
        raise ValueError(problem)
    if not all(isinstance(rule, UpdateRule) for rule in rules.values()):
        raise ValueError(problem)
    if len({id(rule) for rule in rules.values()}) < len(rules):
        raise ValueError(problem)
