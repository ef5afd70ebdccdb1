"""One rule for each group of parameters."""

import keras
from keras import ops

from keras_l2l.rules.base import RuleState, UpdateRule


@keras.saving.register_keras_serializable(package="keras_l2l")
class Grouped(UpdateRule):
    """A rule for each group of parameters, told apart by their rank.

    As in the paper, one rule for the kernels of convolutions and another for
    everything else. They are trained, saved and used as one rule. Whatever a
    rule shares between parameters (averages, a memory), it shares within its
    group.

    A rule sees tensors, which have no names: so groups go by the rank of a
    tensor, not by the layer that it belongs to. Kernels of 2D convolutions
    have rank 4; biases 1, of dense layers 2.

    Args:
        rules: Dict from the names of the groups to their `UpdateRule`s, all
            of one dtype.
        ranks: Dict from the names of groups to the rank of the tensors in
            them, an integer or a sequence of integers. The one group that is
            not named here has all other tensors.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to that of the rules.

    Example:

    >>> rule = keras_l2l.rules.Grouped(
    ...     {
    ...         "convolutions": keras_l2l.rules.CoordinatewiseLSTM(),
    ...         "others": keras_l2l.rules.CoordinatewiseLSTM(),
    ...     },
    ...     ranks={"convolutions": 4},
    ... )

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.3.
    """

    def __init__(self, rules, ranks, **kwargs):
        _check_rules(rules)
        dtypes = {rule.compute_dtype for rule in rules.values()}
        super().__init__(**{"dtype": min(dtypes), **kwargs})
        if dtypes != {self.compute_dtype}:
            raise ValueError(
                "Argument `rules` must have rules of one dtype, which is that "
                f"of the group. Received: rules of {sorted(dtypes)}, "
                f"dtype={self.compute_dtype}"
            )
        ranks = {
            name: [rank] if isinstance(rank, int) else list(rank)
            for name, rank in ranks.items()
        }
        self._group_of_rank = _groups_of_ranks(rules, ranks)
        (self._group_of_others,) = rules.keys() - ranks.keys()
        self.rules = rules
        self.ranks = ranks

    @property
    def independent(self):
        # Never coordinates: in one vector, tensors would lose their ranks.
        kinds = {rule.independent for rule in self.rules.values()}
        return "nothing" if "nothing" in kinds else "tensors"

    def initial_state(self, parameters):
        local, shared = [None] * len(parameters), {}
        groups = self._indices(parameters)
        for name, rule in self.rules.items():
            indices = groups.get(name, [])
            state = rule.initial_state(
                [parameters[i] for i in indices] or _any_tensor(rule)
            )
            shared[name] = state.shared
            for i, value in zip(indices, state.local):
                local[i] = value
        return RuleState(local, shared)

    def call(self, gradients, parameters, state):
        updates, local = [None] * len(parameters), [None] * len(parameters)
        shared = {}
        groups = self._indices(parameters)
        for name, rule in self.rules.items():
            if name not in groups:
                shared[name] = _moved_on(rule, state.shared[name])
                continue
            indices = groups[name]
            received, next_state = rule(
                [gradients[i] for i in indices],
                [parameters[i] for i in indices],
                RuleState(
                    [state.local[i] for i in indices], state.shared[name]
                ),
            )
            shared[name] = next_state.shared
            for i, update, value in zip(indices, received, next_state.local):
                updates[i], local[i] = update, value
        return updates, RuleState(local, shared)

    def evaluation_parameters(self, parameters, state):
        result = list(parameters)
        for name, indices in self._indices(parameters).items():
            received = self.rules[name].evaluation_parameters(
                [parameters[i] for i in indices],
                RuleState(
                    [state.local[i] for i in indices], state.shared[name]
                ),
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
            "ranks": {name: list(ranks) for name, ranks in self.ranks.items()},
        }

    @classmethod
    def from_config(cls, config):
        rules = {
            name: keras.saving.deserialize_keras_object(rule)
            for name, rule in config["rules"].items()
        }
        return cls(**{**config, "rules": rules})

    def _indices(self, parameters):
        """Dict from the names of groups to the indices of their parameters."""
        groups: dict[str, list[int]] = {}
        for index, parameter in enumerate(parameters):
            name = self._group_of_rank.get(
                len(parameter.shape), self._group_of_others
            )
            groups.setdefault(name, []).append(index)
        return groups


def _moved_on(rule, shared):
    """What the parameters of a rule share, after a step on none of them.

    Parameters that are independent may come one by one, but a step count that
    they share goes on with whichever comes.
    """
    if rule.independent == "nothing":
        return shared
    tensor = _any_tensor(rule)
    state = RuleState(rule.initial_state(tensor).local, shared)
    _, state = rule(tensor, tensor, state)
    return state.shared


def _any_tensor(rule):
    return [ops.zeros((1,), rule.compute_dtype)]


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


def _groups_of_ranks(rules, ranks):
    """Dict from ranks to the names of groups."""
    pairs = [(rank, name) for name, group in ranks.items() for rank in group]
    groups = dict(pairs)
    if (
        not ranks.keys() < rules.keys()
        or len(ranks) != len(rules) - 1
        or len(groups) < len(pairs)
        or not all(isinstance(rank, int) and rank >= 0 for rank in groups)
    ):
        raise ValueError(
            "Argument `ranks` must give ranks, integers that differ, to all "
            f"groups but one of {sorted(rules)}. Received: ranks={ranks}"
        )
    return groups
