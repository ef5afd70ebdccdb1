"""Tensors of one shape as one, so that a step has fewer, larger operations."""

from keras import ops


class ShapeStacks:
    """Stacks the tensors of a model by their shapes, and takes them apart.

    A model has hundreds of tensors of some ten shapes, and each operation
    takes time to trace and to run. A tensor with an axis of unknown size is a
    stack of one.

    Args:
        tensors: List of tensors, whose shapes all later lists have.
        dtype: The dtype of the stacks.
    """

    def __init__(self, tensors, dtype):
        self._tensors = tensors
        self._dtype = dtype
        groups: dict[tuple, list[int]] = {}
        for index, tensor in enumerate(tensors):
            shape = tuple(tensor.shape)
            key = (*shape, index) if None in shape else shape
            groups.setdefault(key, []).append(index)
        self._groups = list(groups.values())
        self._order = [index for group in self._groups for index in group]

    @property
    def shapes(self):
        """List of the shape of each stack's tensors."""
        return [ops.shape(self._tensors[g[0]]) for g in self._groups]

    @property
    def counts(self):
        """List of how many tensors each stack has."""
        return [len(group) for group in self._groups]

    def stack(self, tensors):
        """List of tensors → list of stacks `[k, n]` of k flat tensors."""
        return [
            _concatenate(
                [
                    ops.reshape(ops.cast(tensors[i], self._dtype), (1, -1))
                    for i in group
                ]
            )
            for group in self._groups
        ]

    def unstack(self, stacks):
        """The inverse of `stack`: list of stacks → list of tensors."""
        rows = [
            row
            for stack, count in zip(stacks, self.counts)
            for row in (ops.split(stack, count) if count > 1 else [stack])
        ]
        return [
            ops.reshape(row, ops.shape(tensor))
            for row, tensor in zip(self._restored(rows), self._tensors)
        ]

    def stack_scalars(self, values):
        """List of K scalars or vectors → `[K, …]`, in the order of stacks."""
        return ops.stack([values[i] for i in self._order])

    def unstack_scalars(self, values):
        """The inverse of `stack_scalars`."""
        return self._restored(ops.unstack(values))

    def repeat(self, values):
        """A value for each stack → list of K, one for each tensor."""
        return [
            value
            for value, count in zip(values, self.counts)
            for _ in range(count)
        ]

    def split(self, values):
        """`[K, …]`, in the order of stacks → list of `[k, …]`."""
        ends = [sum(self.counts[: i + 1]) for i in range(len(self.counts))]
        return ops.split(values, ends[:-1]) if ends[:-1] else [values]

    def _restored(self, values):
        """A list in the order of stacks → in the order of the tensors."""
        places = {index: place for place, index in enumerate(self._order)}
        return [values[places[i]] for i in range(len(values))]


def _concatenate(tensors):
    return tensors[0] if len(tensors) == 1 else ops.concatenate(tensors)
