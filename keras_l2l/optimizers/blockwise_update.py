"""A rule's step on variables in blocks, so that its temporaries stay small."""

import tensorflow as tf
from keras import tree

from keras_l2l.execution import function_cache
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

    Returns:
        List of tensors: the updates, times the learning rate.
    """
    # The same for each block: it moves on once a step.
    shared = tree.map_structure(tf.convert_to_tensor, slots.shared)
    run = function_cache.traced_rule(rule)

    def step(indices, gradients, parameters, local):
        local = [
            tree.map_structure(tf.cast, values, dtypes.local[i])
            for i, values in zip(indices, local)
        ]
        received, state = run(gradients, parameters, RuleState(local, shared))
        return [u * tf.cast(learning_rate, u.dtype) for u in received], state

    def step_on(indices):
        """All of these variables in one call."""
        received, state = step(
            indices,
            [gradients[i] for i in indices],
            [tf.convert_to_tensor(variables[i]) for i in indices],
            [
                tree.map_structure(tf.convert_to_tensor, slots.local[i])
                for i in indices
            ],
        )
        for i, update, values in zip(indices, received, state.local):
            updates[i] = update
            tree.map_structure(_assign, slots.local[i], values)
        return state.shared

    def step_in_blocks(index):
        """One variable in several calls."""
        variable, slot = variables[index], slots.local[index]
        gradient = tf.reshape(gradients[index], [-1])
        parameter = tf.reshape(tf.convert_to_tensor(variable), [-1])
        first = _size(variable) % block_size or block_size
        blocks = _size(variable) // block_size - (first == block_size)

        def step_on_block(begin, size):
            # Gathered and scattered: assigning to a slice of a variable that
            # has been read would copy the whole of it, for each block.
            rows = begin + tf.range(size)
            (update,), state = step(
                [index],
                [tf.slice(gradient, [begin], [size])],
                [tf.slice(parameter, [begin], [size])],
                [tree.map_structure(lambda s: _gather(s, rows, size), slot)],
            )
            tree.map_structure(
                lambda s, value: s.scatter_update(
                    tf.IndexedSlices(tf.cast(value, s.dtype), rows)
                ),
                slot,
                state.local[0],
            )
            return update, state.shared

        # The first block is the odd one, so that those of the loop are alike.
        update, next_shared = step_on_block(0, first)

        def body(block, parts):
            part, _ = step_on_block(first + block * block_size, block_size)
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
        updates[index] = tf.reshape(update, variable.shape)
        return next_shared

    updates = [None] * len(variables)
    done: list[tf.Tensor] = []
    for group in _groups(rule, variables, block_size):
        # One after the other, or the temporaries of all would add up.
        with tf.control_dependencies(done):
            if _is_large(rule, variables[group[0]], block_size):
                next_shared = step_in_blocks(group[0])
            else:
                next_shared = step_on(group)
        done = [updates[i] for i in group]
    tree.map_structure(_assign, slots.shared, next_shared)
    return updates


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


def _gather(variable, rows, size):
    """Rows of a variable, of which the graph knows how many there are."""
    values = tf.gather(variable, rows)
    return tf.ensure_shape(values, [size, *variable.shape[1:]])


def _assign(variable, value):
    variable.assign(tf.cast(value, variable.dtype))
