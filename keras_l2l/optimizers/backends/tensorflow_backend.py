"""TensorFlow: graphs, strategies, and variables that are updated in place."""

import contextlib

import keras
import tensorflow as tf
from keras import tree

from keras_l2l.execution import function_cache
from keras_l2l.optimizers.backends import distribution
from keras_l2l.optimizers.backends.base import Backend


class TensorFlowBackend(Backend):
    """A step in eager mode, in a graph or in XLA, on one or more replicas."""

    def native(self, variable):
        if isinstance(variable, keras.Variable):
            return variable.value
        return variable

    def dense(self, gradient):
        # Repeated indices of slices are added up, which their norm is not.
        if isinstance(gradient, tf.IndexedSlices):
            return tf.convert_to_tensor(gradient)
        return gradient

    def read(self, variable):
        return tf.convert_to_tensor(variable)

    def norms(self, tensors):
        # One operation for each of hundreds of tensors.
        halves = [tf.nn.l2_loss(tf.cast(one, tf.float32)) for one in tensors]
        return tf.sqrt(2.0 * tf.stack(halves))

    def first_elements(self, variables):
        # Gathered from values, as XLA cannot gather from a variable.
        firsts = [
            tf.gather_nd(self.read(v), [0] * len(v.shape))
            if len(v.shape)
            else self.read(v)
            for v in variables
        ]
        return tf.stack([tf.cast(first, tf.float32) for first in firsts])

    def scaled(self, tensor, factor):
        return tf.math.multiply_no_nan(tensor, tf.cast(factor, tensor.dtype))

    def select(self, is_first, first, second):
        # `tf.where` is as slow as if it had to broadcast.
        return tf.compat.v1.where(is_first, first, second)

    def traced(self, rule):
        return function_cache.traced_rule(rule)

    def traced_once(self, functions, key, update):
        if tf.executing_eagerly() or tf.distribute.has_strategy():
            return update

        def call(variable, gradients, *others):
            *state, rate = others
            if key not in functions:
                functions[key] = tf.function(
                    lambda gradients, rate: update(
                        variable, gradients, *state, rate
                    ),
                    autograph=False,
                )
            functions[key](list(gradients), tf.convert_to_tensor(rate))

        return call

    def after(self, tensors):
        return tf.control_dependencies(tensors)

    def update_blocks(self, step, gradient, parameter, slots, block_size):
        # In place, so that the slots are not held twice.
        size = gradient.shape[0]
        first = size % block_size or block_size
        blocks = (size - first) // block_size

        def run(begin, length):
            return _update_block(
                step, gradient, parameter, slots, begin, length
            )

        update, shared = run(0, first)

        def body(block, parts):
            part, _ = run(first + block * block_size, block_size)
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
        parts = tf.reshape(parts.stack(), [-1])
        return tf.concat([update, parts], 0), shared

    def is_known(self, variable):
        return tf.executing_eagerly()

    def do_not_convert(self, function):
        return tf.autograph.experimental.do_not_convert(function)

    def outside_of_functions(self):
        return tf.init_scope()

    @contextlib.contextmanager
    def scope_of_variables(self):
        # In a function that `fit()` traces, each variable takes long to
        # create, and under XLA none may begin with a large constant. Those of
        # replicas cannot leave it.
        if tf.distribute.has_strategy():
            yield
            return
        with tf.init_scope(), tf.variable_creator_scope(_create_outside):
            yield

    def colocated_with(self, variable):
        strategy = tf.distribute.get_strategy()
        return strategy.extended.colocate_vars_with(self.native(variable))

    def checkpointed(self, variables):
        # `tf.train.Checkpoint` does not look into lists of a Keras layer.
        module = tf.Module()
        module.meta_parameters = variables
        return module

    def strategy(self):
        return tf.distribute.get_strategy()

    def has_strategy(self):
        return tf.distribute.has_strategy()

    def check_same_strategy(self, strategy, variables):
        distribution.check_same(strategy, [self.native(v) for v in variables])

    def check_update(self, optimizer):
        distribution.check_update(optimizer)


def _create_outside(next_creator, **arguments):
    """Creates a variable that no function counts as its own.

    A function that has created variables is traced again, with all that the
    training step of a model computes.
    """
    arguments["experimental_enable_variable_lifting"] = False
    return next_creator(**arguments)


def _update_block(step, gradient, parameter, slots, begin, length):
    """Runs a step on a block; returns its update `[length]` and `shared`."""
    # Gathered and scattered: assigning to a slice of a variable that has been
    # read would copy the whole of it, for each block.
    rows = begin + tf.range(length)

    def gather(slot):
        values = tf.gather(slot, rows)
        # The graph knows how many there are.
        return tf.ensure_shape(values, [length, *slot.shape[1:]])

    update, local, shared = step(
        tf.slice(gradient, [begin], [length]),
        tf.slice(parameter, [begin], [length]),
        tree.map_structure(gather, slots),
    )
    tree.map_structure(
        lambda slot, value: slot.scatter_update(
            tf.IndexedSlices(tf.cast(value, slot.dtype), rows)
        ),
        slots,
        local,
    )
    return update, shared


BACKEND = TensorFlowBackend()
