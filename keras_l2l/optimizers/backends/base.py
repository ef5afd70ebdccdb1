"""A backend whose tensors are values and whose variables are Keras's."""

import contextlib
from typing import Any

from keras import ops, tree


class Backend:
    """What an optimizer does in another way on each backend of Keras.

    Everything else is `keras.ops`. Most of these methods do something on
    TensorFlow alone, which builds graphs, has strategies of distribution, and
    hands the step its own kind of variable.
    """

    # Values and variables.

    def native(self, variable):
        """The variable that a step gets from Keras for a `keras.Variable`."""
        return variable

    def dense(self, gradient):
        """A gradient as a tensor, if the backend keeps it sparse."""
        return gradient

    def read(self, variable):
        """The value of a variable, which later assignments do not change."""
        return ops.convert_to_tensor(variable)

    def assign(self, variable, value):
        """Assigns a value, cast to the variable's dtype."""
        variable.assign(ops.cast(value, variable.dtype))

    def scaled(self, tensor, factor):
        """A tensor times a scalar; zeros if that is 0, whatever it is."""
        factor = ops.cast(factor, tensor.dtype)
        return ops.where(ops.equal(factor, 0), 0, tensor * factor)

    def select(self, is_first, first, second):
        """One of two tensors of one shape, by a scalar boolean."""
        return ops.where(is_first, first, second)

    def norms(self, tensors):
        """The norms of K tensors, a float32 tensor `[K]`."""
        squares = [
            ops.sum(ops.square(ops.cast(one, "float32"))) for one in tensors
        ]
        return ops.sqrt(ops.stack(squares))

    def first_elements(self, variables):
        """The first element of each of K variables, a float32 tensor `[K]`."""
        firsts = [ops.reshape(self.read(v), (-1,))[0] for v in variables]
        return ops.stack([ops.cast(first, "float32") for first in firsts])

    # Conditions.

    def cond(self, condition, then, otherwise):
        """`ops.cond`, whose branches return tensors and assign nothing."""
        return ops.cond(condition, then, otherwise)

    def assign_if(self, condition, values, variables):
        """Assigns variables what a function returns, if a condition holds.

        Args:
            condition: Scalar boolean tensor.
            values: Function without arguments that returns a list of
                tensors, one for each variable.
            variables: List of variables.
        """

        def assign():
            for variable, value in zip(variables, values()):
                self.assign(variable, value)

        ops.cond(condition, assign, lambda: None)

    # The step of a rule.

    def traced(self, rule):
        """A rule, or a function like it that is traced only once."""
        return rule

    def traced_once(self, functions, key, update):
        """An update that is traced once, although `fit()` may trace it twice.

        Args:
            functions: Dict in which to keep it.
            key: What tells the update from others in that dict.
            update: Function of a variable, a list of gradients, structures of
                variables that are always the same, and the learning rate.

        Returns:
            Function of the same arguments.
        """
        return update

    def after(self, tensors):
        """A context in which nothing runs before these tensors are known."""
        return contextlib.nullcontext()

    def update_blocks(self, step, gradient, parameter, slots, block_size):
        """Runs a step block by block, and assigns the slots.

        The first block is the odd one, so that the others are alike.

        Args:
            step: Function from the gradient and the parameter of a block,
                `[b]`, and its slots, a structure of tensors `[b, …]`, to
                `(update, slots, shared)`, of which `shared` is the same for
                each block.
            gradient: Tensor `[n]`.
            parameter: Tensor `[n]`.
            slots: Structure of variables `[n, …]`.
            block_size: Integer less than `n`.

        Returns:
            Tuple `(update, shared)`, the update `[n]`.
        """
        first = gradient.shape[0] % block_size or block_size
        inputs = (gradient, parameter, tree.map_structure(self.read, slots))
        update, local, shared = step(
            *tree.map_structure(lambda value: value[:first], inputs)
        )
        blocks = tree.map_structure(
            lambda value: ops.reshape(
                value[first:], (-1, block_size, *value.shape[1:])
            ),
            inputs,
        )
        updates, locals_ = ops.map(lambda block: step(*block)[:2], blocks)
        tree.map_structure(
            lambda slot, one, others: self.assign(slot, _join(one, others)),
            slots,
            local,
            locals_,
        )
        return _join(update, updates), shared

    # Where a step runs.

    def no_gradient(self):
        """A context in which no derivative is recorded."""
        return contextlib.nullcontext()

    def is_known(self, variable):
        """Whether a variable has a value now, and not only when it is run."""
        return True

    def do_not_convert(self, function):
        """Keeps a method from being rewritten when it is traced."""
        return function

    def outside_of_functions(self):
        """A context whose tensors belong to no function being traced."""
        return contextlib.nullcontext()

    def scope_of_variables(self):
        """A context in which to create optimizer variables."""
        return contextlib.nullcontext()

    def colocated_with(self, variable):
        """A context whose variables lie on the devices of another."""
        return contextlib.nullcontext()

    def checkpointed(self, variables) -> Any:
        """An object by which the framework's own checkpoints find variables."""

    # Distribution strategies.

    def strategy(self) -> Any:
        """The strategy of the present scope, if the backend has them."""

    def has_strategy(self) -> bool:
        """Whether a step is in the scope of a strategy of several replicas."""
        return False

    def check_same_strategy(self, strategy, variables):
        """Raises a `ValueError` if variables are of another strategy."""

    def check_update(self, optimizer):
        """Raises a `ValueError` where an update would fail strangely."""


def _join(one, others):
    """`[f, …]` and `[k, b, …]` → `[f + k * b, …]`."""
    return ops.concatenate([one, ops.reshape(others, (-1, *others.shape[2:]))])
