"""One rule for each group of parameters."""

import keras
from keras import ops

from keras_l2l.rules.base import RuleState, UpdateRule
from keras_l2l.rules.parameter_groups import Selection


@keras.saving.register_keras_serializable(package="keras_l2l")
class Grouped(UpdateRule):
    """A rule for each group of parameters.

    As in the paper, one rule for the kernels of convolutions and another for
    everything else. They are trained, saved and used as one rule. Whatever a
    rule shares between parameters (averages, a memory), it shares within its
    group.

    A group is selected by the rank, the shape or the size of its tensors, or
    by their paths, as in `variable.path`: `"conv2d_1/kernel"`. A group that
    several of these arguments name has what fits all of them, and of several
    values in one argument any. No parameter may be in two groups; the one
    group that no argument names has all that are in none. What is selected
    by the type of a layer is selected by path, see `rules.paths_of`.

    Groups are decided when the hidden state is made and are part of it: so
    they stay as they are while an optimizee trains and when it is saved.
    Tensors alone have no path. `L2LOptimizer` and `KerasTask` know them; else
    call `named_initial_state`. The exported graph is that of a vector without
    a path and of unknown size.

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
        paths: Dict from names of groups to a pattern of the paths of their
            tensors, or a sequence of patterns, in which `*`, `?` and `[…]`
            have the meaning that they have in the names of files, except
            that `*` goes beyond `/`. A pattern is that of a whole path or of
            the last names in it: `"bias"`, `"conv2d/kernel"`, `"encoder/*"`.
            The numbers that Keras appends to names differ from model to
            model; a pattern may be without any: `"conv2d/kernel"` fits
            `"sequential/conv2d_1/kernel"`. Defaults to `None`.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to that of the rules.

    Examples:

    >>> rule = keras_l2l.rules.Grouped(
    ...     {
    ...         "convolutions": keras_l2l.rules.CoordinatewiseLSTM(),
    ...         "others": keras_l2l.rules.CoordinatewiseLSTM(),
    ...     },
    ...     ranks={"convolutions": 4},
    ... )

    A trained one, for a model whose layers have other names:

    >>> rule = keras_l2l.rules.Grouped(
    ...     keras_l2l.load_rule("my_rule").rules,
    ...     paths={
    ...         "convolutions": keras_l2l.rules.paths_of(model, "Conv2D")
    ...     },
    ... )
    >>> rule.groups_of(model.trainable_variables)
    ["convolutions", "convolutions", "others", "others"]

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.3.
    """

    def __init__(
        self,
        rules,
        ranks=None,
        shapes=None,
        sizes=None,
        paths=None,
        **kwargs,
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
    def granularity(self):
        # Never coordinates: in one vector, tensors would lose their groups.
        kinds = {rule.granularity for rule in self.rules.values()}
        return "model" if "model" in kinds else "tensor"

    @property
    def reads_paths(self):
        return self._selection.reads_paths or any(
            rule.reads_paths for rule in self.rules.values()
        )

    def groups_of(self, parameters, paths=None):
        """The group of each parameter.

        Args:
            parameters: List of tensors or variables.
            paths: List of strings, see `named_initial_state`. Defaults to
                `None`: those of the variables that have one.

        Returns:
            List of strings, names of groups.
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
        # The key of a parameter's state is its group, for all steps to come.
        local, shared = [None] * len(parameters), {}
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
                else _any_state(rule)
            )
            shared[name] = state.shared
            for i, value in zip(indices, state.local):
                local[i] = {name: value}
        return RuleState(local, shared)

    def call(self, gradients, parameters, state):
        updates, local = [None] * len(parameters), [None] * len(parameters)
        shared = {}
        parts = _parts(state)
        for name, rule in self.rules.items():
            if name not in parts:
                shared[name] = _moved_on(rule, state.shared[name])
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
    """The paths of parameters; of tensors `None`, unless they are given."""
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


def _moved_on(rule, shared):
    """What the parameters of a rule share, after a step on none of them.

    Parameters that are independent may come one by one, but a step count that
    they share goes on with whichever comes.
    """
    if rule.granularity == "model":
        return shared
    tensor = _any_tensor(rule)
    state = RuleState(_any_state(rule).local, shared)
    _, state = rule(tensor, tensor, state)
    return state.shared


def _any_tensor(rule):
    return [ops.zeros((1,), rule.compute_dtype)]


def _any_state(rule):
    return rule.named_initial_state(_any_tensor(rule), [""])


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
