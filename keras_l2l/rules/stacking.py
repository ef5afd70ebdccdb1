"""Tensors of one shape as one, so that a step has fewer, larger operations."""

import keras
from keras import ops


class ShapeStacks:
    """Stacks the tensors of a model by their shapes, and takes them apart.

    A model has hundreds of tensors of some ten shapes, and each operation
    takes time to trace and to run. A tensor with an axis of unknown size is a
    stack of one.

    Args:
        tensors: List of tensors or variables, whose shapes all later lists
            have.
        dtype: The dtype of the stacks. Defaults to `None`, that of their
            tensors, of which those of another dtype have a stack of their own.
    """

    def __init__(self, tensors, dtype=None):
        self._tensors = tensors
        self._dtype = dtype
        groups: dict[tuple, list[int]] = {}
        for index, tensor in enumerate(tensors):
            shape = tuple(tensor.shape)
            key = (*shape, index) if None in shape else shape
            kind = keras.backend.standardize_dtype(dtype or tensor.dtype)
            groups.setdefault((kind, *key), []).append(index)
        self._groups = list(groups.values())
        self._order = [index for group in self._groups for index in group]

    @property
    def shapes(self):
        """List of the shape of each stack's tensors."""
        return [_shape(self._tensors[g[0]]) for g in self._groups]

    @property
    def counts(self):
        """List of how many tensors each stack has."""
        return [len(group) for group in self._groups]

    def stack(self, tensors):
        """List of tensors → list of stacks `[k, n]` of k flat tensors."""
        stacks = []
        for group in self._groups:
            members = [tensors[i] for i in group]
            if self._dtype is not None:
                members = [ops.cast(m, self._dtype) for m in members]
            # One operation for all of them, and one to make them flat.
            stack = members[0] if len(members) == 1 else ops.stack(members)
            stacks.append(ops.reshape(stack, (len(members), -1)))
        return stacks

    def unstack(self, stacks):
        """The inverse of `stack`: list of stacks → list of tensors."""
        tensors = []
        for stack, group in zip(stacks, self._groups):
            shape = _shape(self._tensors[group[0]])
            if len(group) == 1:
                tensors.append(ops.reshape(stack, shape))
            else:
                members = ops.reshape(stack, (len(group), *shape))
                tensors += ops.unstack(members, len(group))
        return self._restored(tensors)

    def unstack_updates(self, stacks):
        """As `unstack`, in the dtypes of the tensors."""
        return [
            ops.cast(update, tensor.dtype)
            for update, tensor in zip(self.unstack(stacks), self._tensors)
        ]

    def stack_scalars(self, values):
        """List of K scalars or vectors → `[K, …]`, in the order of stacks."""
        return ops.stack([values[i] for i in self._order])

    def unstack_scalars(self, values):
        """The inverse of `stack_scalars`."""
        return self._restored(ops.unstack(values))

    # Rows that are taken apart and packed again: `ops.take` and `ops.split`
    # are made of twenty operations each.

    def to_stacks(self, values):
        """`[K, …]`, one for each tensor → list of `[k, …]`, of the stacks."""
        rows = ops.unstack(values)
        return [ops.stack([rows[i] for i in group]) for group in self._groups]

    def from_stacks(self, values):
        """The inverse of `to_stacks`."""
        rows = ops.unstack(ops.concatenate(values))
        return ops.stack(self._restored(rows))

    def repeat(self, values):
        """A value for each stack → list of K, one for each tensor."""
        return [
            value
            for value, count in zip(values, self.counts)
            for _ in range(count)
        ]

    def split(self, values):
        """`[K, …]`, in the order of stacks → list of `[k, …]`."""
        rows = iter(ops.unstack(values))
        return [
            ops.stack([next(rows) for _ in range(count)])
            for count in self.counts
        ]

    def _restored(self, values):
        """A list in the order of stacks → in the order of the tensors."""
        places = {index: place for place, index in enumerate(self._order)}
        return [values[places[i]] for i in range(len(values))]


def _shape(tensor):
    """The shape of a tensor, whose unknown axes are tensors."""
    shape = tuple(tensor.shape)
    # `ops.shape` reads a variable, and the graph keeps what it has read.
    return ops.shape(tensor) if None in shape else shape
