"""A gated recurrent unit of many tensors side by side. A pure function."""

from keras import ops


def next_cell(inputs, cell, kernel, recurrent_kernel, bias):
    """One step of the cells of K tensors.

    Args:
        inputs: Tensor `[K, features]`.
        cell: Tensor `[K, units]`, the hidden state.
        kernel: Tensor `[features, 3 * units]`: update gate, reset gate and
            candidate side by side.
        recurrent_kernel: Tensor `[units, 3 * units]`.
        bias: Tensor `[3 * units]`.

    Returns:
        Tensor `[K, units]`, the next hidden state.

    Reference:
        [Cho et al., 2014](https://arxiv.org/abs/1406.1078)
    """
    update, reset, candidate = ops.split(
        ops.matmul(inputs, kernel) + bias, 3, axis=-1
    )
    of_update, of_reset, of_candidate = ops.split(
        ops.matmul(cell, recurrent_kernel), 3, axis=-1
    )
    # One more, so that the cell remembers some steps from the start.
    update = ops.sigmoid(update + of_update + 1.0)
    reset = ops.sigmoid(reset + of_reset)
    candidate = ops.tanh(candidate + reset * of_candidate)
    return update * cell + (1.0 - update) * candidate
