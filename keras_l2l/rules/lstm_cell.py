"""LSTM layers that are applied to every coordinate."""

from keras import ops

from keras_l2l.execution import data_layout, residuals
from keras_l2l.execution.custom_gradients import custom_gradient


class LSTMStack:
    """A stack of LSTM layers that is applied to every coordinate.

    All coordinates share the weights; each has its own hidden state, zero at
    the start. The outputs of the averaging cells of a layer are replaced by
    their mean over all coordinates. The mean is the input of the next layer,
    and of the layer itself at the next step.

    Args:
        kernels: List of variables, one for each layer, the first
            `[I + H, 4 * H]`, the others `[2 * H, 4 * H]`; see `lstm_cell`.
        biases: List of variables `[4 * H]`.
        averaging_cells: Integer in [0, H]. Averaging cells of each layer.
            Defaults to `0`.
    """

    def __init__(self, kernels, biases, averaging_cells=0):
        self.kernels = kernels
        self.biases = biases
        self.averaging_cells = averaging_cells

    def initial_state(self, count):
        """Returns the hidden state before the first step.

        Args:
            count: Integer or scalar integer tensor, `N`.

        Returns:
            Dict of tensors `[N, H]`: `hidden_0`, `cell_0` and so on.
        """
        bias = self.biases[0]
        zeros = ops.zeros((count, bias.shape[0] // 4), bias.dtype)
        return {
            f"{part}_{layer}": zeros
            for layer in range(len(self.kernels))
            for part in ("hidden", "cell")
        }

    def __call__(self, inputs, state):
        """Computes one step of all layers.

        Args:
            inputs: Tensor `[N, I]`.
            state: Dict with the entries of `initial_state`. Others are
                ignored.

        Returns:
            Tuple `(outputs, state)`: the outputs `[N, H]` of the last layer,
            and the dict of the next hidden state.
        """
        next_state = {}
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases)):
            hidden, cell = lstm_cell(
                inputs,
                state[f"hidden_{layer}"],
                state[f"cell_{layer}"],
                kernel,
                bias,
            )
            inputs = self._average(hidden)
            next_state[f"hidden_{layer}"] = inputs
            next_state[f"cell_{layer}"] = cell
        return inputs, next_state

    def _average(self, hidden):
        """Replaces the first columns of `[N, H]` by their means."""
        if not self.averaging_cells:
            return hidden
        shared = hidden[:, : self.averaging_cells]
        mean = ops.mean(shared, axis=0, keepdims=True)
        return ops.concatenate(
            [
                mean + ops.zeros_like(shared),
                hidden[:, self.averaging_cells :],
            ],
            -1,
        )


def forget_gate_open(shape, dtype=None):
    """Initializer of the bias of an LSTM layer: 1 for the forget gate, else 0.

    An open forget gate keeps the cell at first, so that gradients reach
    early steps.

    Args:
        shape: Tuple of one integer, `4 * units`.
        dtype: String. Defaults to `None`.

    Returns:
        A tensor.
    """
    units = shape[0] // 4
    return ops.concatenate(
        [
            ops.zeros((units,), dtype),
            ops.ones((units,), dtype),
            ops.zeros((2 * units,), dtype),
        ]
    )


def lstm_cell(inputs, hidden, cell, kernel, bias):
    """Computes one step of an LSTM layer on every coordinate.

    Args:
        inputs: Tensor `[N, I]`.
        hidden: Tensor `[N, H]`.
        cell: Tensor `[N, H]`.
        kernel: Variable `[I + H, 4 * H]`, for the input, forget, candidate
            and output gates.
        bias: Variable `[4 * H]`.

    Returns:
        Tuple of the next hidden state and the next cell, `[N, H]` each.
    """
    # As σ(x) = (tanh(x/2) + 1) / 2, all gates are one hyperbolic tangent.
    units = cell.shape[-1]
    scale = ops.convert_to_tensor(
        [0.5] * (2 * units) + [1.0] * units + [0.5] * units, cell.dtype
    )
    kernel, bias = kernel * scale, bias * scale
    if not data_layout.is_coordinates_last():
        return _scaled_cell(inputs, hidden, cell, kernel, bias)
    rows = [ops.transpose(tensor) for tensor in (inputs, hidden, cell)]
    hidden, cell = _transposed_cell(*rows, kernel, bias)
    return ops.transpose(hidden), ops.transpose(cell)


def _make_cell(axis, product, input_vjp, weight_vjp):
    """Makes a cell whose VJP needs only the gates and `tanh(cell)`.

    Automatic differentiation would store four times as much.

    Args:
        axis: Integer, the axis of the units.
        product: Function from the kernel, the joined inputs and the bias to
            the gates before their nonlinearity.
        input_vjp: Function from the kernel and cotangents of the gates to
            cotangents of the joined inputs.
        weight_vjp: Function from the joined inputs and cotangents of the
            gates to cotangents of the kernel and of the bias.

    Returns:
        Function with the arguments and results of `lstm_cell`.
    """

    @custom_gradient
    def cell(inputs, hidden, cell, kernel, bias):
        joined = ops.concatenate([inputs, hidden], axis)
        gates = residuals.save_residual(
            lambda: ops.tanh(product(kernel, joined, bias))
        )
        input_gate, forget, candidate, output_gate = ops.split(
            gates, 4, axis=axis
        )
        next_cell = 0.5 * ((forget + 1) * cell + (input_gate + 1) * candidate)
        squashed = ops.tanh(next_cell)
        next_hidden = 0.5 * (output_gate + 1) * squashed

        def backward(*cotangents):
            # TensorFlow passes two tensors, JAX a tuple of them.
            d_hidden, d_cell = (
                cotangents if len(cotangents) == 2 else cotangents[0]
            )
            d_cell = d_cell + 0.5 * d_hidden * (output_gate + 1) * (
                1 - squashed**2
            )
            d_gates = (1 - gates**2) * ops.concatenate(
                [
                    0.5 * candidate * d_cell,
                    0.5 * cell * d_cell,
                    0.5 * (input_gate + 1) * d_cell,
                    0.5 * squashed * d_hidden,
                ],
                axis,
            )
            d_inputs, d_hidden = ops.split(
                input_vjp(kernel, d_gates), [inputs.shape[axis]], axis=axis
            )
            return (
                d_inputs,
                d_hidden,
                0.5 * (forget + 1) * d_cell,
                *weight_vjp(joined, d_gates),
            )

        return (next_hidden, next_cell), backward

    return cell


# [N, I + H] → [N, 4H]
_scaled_cell = _make_cell(
    -1,
    lambda kernel, joined, bias: ops.matmul(joined, kernel) + bias,
    lambda kernel, d_gates: ops.matmul(d_gates, ops.transpose(kernel)),
    lambda joined, d_gates: (
        ops.matmul(ops.transpose(joined), d_gates),
        ops.sum(d_gates, axis=0),
    ),
)
# [I + H, N] → [4H, N]
_transposed_cell = _make_cell(
    0,
    lambda kernel, joined, bias: (
        ops.matmul(ops.transpose(kernel), joined) + bias[:, None]
    ),
    ops.matmul,
    lambda joined, d_gates: (
        ops.matmul(joined, ops.transpose(d_gates)),
        # XLA sums along the last axis one by one, but not in a product.
        ops.matmul(d_gates, ops.ones_like(d_gates[0])),
    ),
)
