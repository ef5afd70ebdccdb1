"""A rule's step on variables in blocks, so that its temporaries stay small."""

import functools
from typing import Any

import tensorflow as tf
from keras import tree

from keras_l2l.execution import function_cache
from keras_l2l.execution.custom_gradients import forward_only
from keras_l2l.rules import RuleState

# A rule's network has some hundred numbers for each coordinate in flight.
BLOCK_SIZE = 2**14
# A rule of whole tensors has fewer, and stacks tensors of one shape: as many
# blocks share a call.
_BLOCKS_OF_TENSORS = 16


def update_in_blocks(
    rule,
    gradients,
    variables,
    slots,
    dtypes,
    learning_rate,
    block_size=BLOCK_SIZE,
    is_good=None,
):
    """One step of a rule, whose hidden state is kept in variables.

    Small variables share a call of the rule, which makes one matrix product
    of all their coordinates; those with more coordinates than a block take a
    call for each block, or one call if only the tensors of the rule are
    independent. A rule where nothing is gets all variables at once.

    Args:
        rule: An `UpdateRule`.
        gradients: List of tensors.
        variables: List of `tf.Variable`, which are not changed.
        slots: A `RuleState` of `tf.Variable`s, which are assigned the next
            hidden state.
        dtypes: A `RuleState` of the dtypes that the rule computes with; those
            of the local slots may be narrower.
        learning_rate: Scalar tensor.
        block_size: Integer, in coordinates. Defaults to 16,384.
        is_good: Boolean tensor, `[K]`: which variables are to be updated. The
            others' hidden state stays as it is, and the rule sees a zero
            gradient in place of theirs. Defaults to `None`, all of them.

    Returns:
        List of tensors: the updates, times the learning rate.
    """
    step = _Step(
        rule, gradients, variables, slots, dtypes, learning_rate, is_good
    )
    updates: list[Any] = [None] * len(variables)
    done: list[tf.Tensor] = []
    for group in _groups(rule, variables, block_size):
        # One after the other, or the temporaries of all would add up.
        with tf.control_dependencies(done):
            if _is_large(rule, variables[group[0]], block_size):
                done, shared = step.in_blocks(group[0], block_size)
            else:
                done, shared = step.in_one_call(group)
        for i, update in zip(group, done):
            updates[i] = update
    tree.map_structure(_assign, slots.shared, shared)
    return updates


class _Step:
    """A step of a rule; its arguments are those of `update_in_blocks`.

    Its methods assign the next hidden state of their variables, and return
    the list of their updates and the next shared state.
    """

    def __init__(
        self, rule, gradients, variables, slots, dtypes, learning_rate, is_good
    ):
        self.run = function_cache.traced_rule(rule)
        self.gradients = gradients
        self.variables = variables
        self.slots = slots.local
        # The same for each block: it moves on once a step.
        self.shared = tree.map_structure(tf.convert_to_tensor, slots.shared)
        self.dtypes = dtypes.local
        self.learning_rate = learning_rate
        self.is_good = is_good

    def in_one_call(self, indices):
        """Updates some variables."""
        updates, state = self._call(
            indices,
            [self.gradients[i] for i in indices],
            [tf.convert_to_tensor(self.variables[i]) for i in indices],
            [
                tree.map_structure(tf.convert_to_tensor, self.slots[i])
                for i in indices
            ],
        )
        for i, values in zip(indices, state.local):
            tree.map_structure(_assign, self.slots[i], values)
        return updates, state.shared

    def in_blocks(self, index, block_size):
        """Updates one variable in several calls."""
        variable = self.variables[index]
        gradient = tf.reshape(self.gradients[index], [-1])
        parameter = tf.reshape(tf.convert_to_tensor(variable), [-1])
        first = _size(variable) % block_size or block_size
        blocks = _size(variable) // block_size - (first == block_size)
        step = functools.partial(self._block, index, gradient, parameter)
        # The first block is the odd one, so that those of the loop are alike.
        update, shared = step(0, first)

        def body(block, parts):
            part, _ = step(first + block * block_size, block_size)
            return block + 1, parts.write(block, part)

        _, parts = tf.while_loop(
            lambda block, _: block < blocks,
            body,
            (
                tf.constant(0),
                tf.TensorArray(
                    update.dtype, size=blocks, element_shape=[block_size]
                ),
            ),
            parallel_iterations=1,
            maximum_iterations=blocks,
        )
        update = tf.concat([update, tf.reshape(parts.stack(), [-1])], 0)
        return [tf.reshape(update, variable.shape)], shared

    def _block(self, index, gradient, parameter, begin, size):
        """Returns the update of a block `[size]`, and the shared state."""
        # Gathered and scattered: assigning to a slice of a variable that has
        # been read would copy the whole of it, for each block.
        rows, slots = begin + tf.range(size), self.slots[index]
        (update,), state = self._call(
            [index],
            [tf.slice(gradient, [begin], [size])],
            [tf.slice(parameter, [begin], [size])],
            [tree.map_structure(lambda s: _gather(s, rows, size), slots)],
        )
        tree.map_structure(
            lambda slot, value: slot.scatter_update(
                tf.IndexedSlices(tf.cast(value, slot.dtype), rows)
            ),
            slots,
            state.local[0],
        )
        return update, state.shared

    def _call(self, indices, gradients, parameters, local):
        """Calls the rule; what is not good stays as it is."""
        local = [
            tree.map_structure(tf.cast, values, self.dtypes[i])
            for i, values in zip(indices, local)
        ]
        gradients = self._only_good(indices, gradients)
        with forward_only():
            updates, state = self.run(
                gradients, parameters, RuleState(local, self.shared)
            )
        updates = [u * tf.cast(self.learning_rate, u.dtype) for u in updates]
        if self.is_good is not None:
            local = [
                tree.map_structure(
                    functools.partial(_select, self.is_good[i]), after, before
                )
                for i, after, before in zip(indices, state.local, local)
            ]
            state = state._replace(local=local)
        return self._only_good(indices, updates), state

    def _only_good(self, indices, tensors):
        """The tensors of good variables, and zeros."""
        if self.is_good is None:
            return tensors
        return [
            _select(self.is_good[i], tensor, tf.zeros_like(tensor))
            for i, tensor in zip(indices, tensors)
        ]


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
    return variable.shape.num_elements()


def _select(is_first, first, second):
    """One of two tensors. `tf.where` is as slow as if it had to broadcast."""
    return tf.compat.v1.where(is_first, first, second)


def _gather(variable, rows, size):
    """Rows of a variable, of which the graph knows how many there are."""
    values = tf.gather(variable, rows)
    return tf.ensure_shape(values, [size, *variable.shape[1:]])


def _assign(variable, value):
    variable.assign(tf.cast(value, variable.dtype))
