"""A rule's step on variables in blocks, so that its temporaries stay small."""

import functools
import math
from typing import Any

from keras import ops, tree

from keras_l2l.execution.custom_gradients import forward_only
from keras_l2l.optimizers.backends import backend
from keras_l2l.rules import RuleState

# A rule's network has some hundred numbers for each coordinate in flight.
BLOCK_SIZE = 2**14
# A rule of whole tensors has fewer, and stacks tensors of one shape: as many
# blocks share a call.
_BLOCKS_OF_TENSORS = 64


def update_in_blocks(
    rule,
    gradients,
    variables,
    slots,
    dtypes,
    learning_rate,
    block_size=BLOCK_SIZE,
    judgement=None,
):
    """One step of a rule, whose hidden state is kept in variables.

    Small variables share a call of the rule, which makes one matrix product
    of all their coordinates; those with more coordinates than a block take a
    call for each block, or one call if only the tensors of the rule are
    independent. A rule where nothing is gets all variables at once.

    Args:
        rule: An `UpdateRule`.
        gradients: List of tensors.
        variables: List of variables, which are not changed.
        slots: A `RuleState` of variables, which are assigned the next hidden
            state.
        dtypes: A `RuleState` of the dtypes that the rule computes with; those
            of the local slots may be narrower.
        learning_rate: Scalar tensor.
        block_size: Integer, in coordinates. Defaults to 16,384.
        judgement: A `Judgement` of the gradients: their scales, and which
            variables are to be updated. The others' hidden state stays as it
            is, and the rule sees a zero gradient in place of theirs. If there
            is none, the shared state stays, too. Defaults to `None`: all are
            good.

    Returns:
        List of tensors: the updates, times the learning rate.
    """
    step = _Step(
        rule, gradients, variables, slots, dtypes, learning_rate, judgement
    )
    updates: list[Any] = [None] * len(variables)
    done: list[Any] = []
    groups = _groups(rule, variables, block_size)
    shapes = [[tuple(variables[i].shape) for i in group] for group in groups]
    for group, its_shapes in zip(groups, shapes):
        # One after the other, or the temporaries of all would add up.
        with backend.after(done):
            if _is_large(rule, variables[group[0]], block_size):
                done, shared = step.in_blocks(group[0], block_size)
            else:
                is_shared = shapes.count(its_shapes) > 1
                done, shared = step.in_one_call(group, is_shared)
        for i, update in zip(group, done):
            updates[i] = update
    step.assign_shared(slots.shared, shared)
    return updates


class _Step:
    """A step of a rule; its arguments are those of `update_in_blocks`.

    Its methods assign the next hidden state of their variables, and return
    the list of their updates and the next shared state.
    """

    def __init__(
        self,
        rule,
        gradients,
        variables,
        slots,
        dtypes,
        learning_rate,
        judgement,
    ):
        self.rule = rule
        self.gradients = gradients
        self.variables = variables
        self.slots = slots.local
        # The same for each block: it moves on once a step.
        self.shared = tree.map_structure(backend.read, slots.shared)
        self.dtypes = dtypes.local
        self.is_judged = judgement is not None
        rate = ops.cast(learning_rate, "float32")
        if self.is_judged:
            is_good, gradient_scale, update_scale = judgement
            self.any_good = ops.any(is_good)
            # Zero for those that are not updated.
            share = ops.cast(is_good, "float32")
            self.gradient_scales = ops.unstack(gradient_scale * share)
            self.rates = ops.unstack(rate * update_scale * share)
            self.is_good = ops.unstack(is_good)
        else:
            self.rates = [rate] * len(variables)

    def in_one_call(self, indices, is_shared):
        """Updates some variables.

        Args:
            indices: List of integers, which.
            is_shared: Boolean, whether other calls have the same shapes, so
                that it pays to trace the rule as a function.
        """
        updates, state = self._call(
            backend.traced(self.rule) if is_shared else self.rule,
            indices,
            [self.gradients[i] for i in indices],
            [backend.read(self.variables[i]) for i in indices],
            [tree.map_structure(backend.read, self.slots[i]) for i in indices],
        )
        for i, values in zip(indices, state.local):
            tree.map_structure(backend.assign, self.slots[i], values)
        return updates, state.shared

    def in_blocks(self, index, block_size):
        """Updates one variable in several calls."""
        variable = self.variables[index]

        def step(gradient, parameter, local):
            (update,), state = self._call(
                backend.traced(self.rule),
                *([index], [gradient], [parameter], [local]),
            )
            return update, state.local[0], state.shared

        update, shared = backend.update_blocks(
            step,
            ops.reshape(self.gradients[index], (-1,)),
            ops.reshape(backend.read(variable), (-1,)),
            self.slots[index],
            block_size,
        )
        return [ops.reshape(update, variable.shape)], shared

    def assign_shared(self, slots, shared):
        """Assigns the next shared state, unless no variable was updated."""
        if self.is_judged:
            select = functools.partial(backend.select, self.any_good)
            shared = tree.map_structure(select, shared, self.shared)
        tree.map_structure(backend.assign, slots, shared)

    def _call(self, rule, indices, gradients, parameters, local):
        """Calls the rule; what is not good stays as it is."""
        local = [
            tree.map_structure(ops.cast, values, self.dtypes[i])
            for i, values in zip(indices, local)
        ]
        if self.is_judged:
            gradients = [
                backend.scaled(gradient, self.gradient_scales[i])
                for i, gradient in zip(indices, gradients)
            ]
        with forward_only():
            updates, state = rule(
                gradients, parameters, RuleState(local, self.shared)
            )
        updates = [
            backend.scaled(update, self.rates[i])
            for i, update in zip(indices, updates)
        ]
        if self.is_judged:
            local = [
                tree.map_structure(
                    functools.partial(backend.select, self.is_good[i]),
                    after,
                    before,
                )
                for i, after, before in zip(indices, state.local, local)
            ]
            state = state._replace(local=local)
        return updates, state


def _groups(rule, variables, block_size):
    """Lists of the indices of variables that share a call."""
    if rule.granularity == "model":
        return [list(range(len(variables)))]
    order = list(range(len(variables)))
    if rule.granularity == "tensor":
        # Equal shapes side by side, as the rule stacks them.
        shapes = [tuple(variable.shape) for variable in variables]
        order.sort(key=lambda index: shapes.index(shapes[index]))
        block_size *= _BLOCKS_OF_TENSORS
    groups: list[list[int]] = [[]]
    size = 0
    for index in order:
        if groups[-1] and size + _size(variables[index]) > block_size:
            groups.append([])
            size = 0
        groups[-1].append(index)
        size += _size(variables[index])
    return groups


def _is_large(rule, variable, block_size):
    return rule.granularity == "coordinate" and _size(variable) > block_size


def _size(variable):
    return math.prod(variable.shape)
