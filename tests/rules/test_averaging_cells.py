"""Averaging cells: what they average, and that they can clip a gradient."""

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import rules

N = 20  # coordinates
RATE, LIMIT = 0.1, 1.0  # of the clipped gradient descent
NORMS = np.geomspace(0.03, 30.0, 13)

OPEN = 20.0  # a gate this far out is open, or shut, to the last digit
SMALL = 1e-3  # of inputs for which tanh is linear
CURVATURE = 0.02
STEPS_DOWN = 10.0 ** (np.arange(-6, 11) / 3)  # of ‖g‖²


def clipping_lstm(averaging_cells=2):
    """An LSTM, set by hand, that clips the gradient by its global norm.

    With shut forget gates and no recurrent weights, a cell is
    h = σ(o) tanh(σ(i) tanh(z)). In the first layer,

    - the averaging cells have i = ±κg and z = ±εg. Their sum is
      tanh(εg) tanh(κg/2) ≈ εκg²/2, an even function, of which the mean over
      the coordinates tells all of them the norm: S = εκ‖g‖²/2n;
    - a third one passes εg on.

    In the second layer, z = εg and σ(2 - 2S/S_k) opens the exit gate of cell
    k: the gradient, as long as ‖g‖² is below the k-th of `STEPS_DOWN`. The
    output layer weighs such steps so that they add up to
    g min(1, LIMIT / ‖g‖), for 0.03 < ‖g‖ < 30 to 3.3 percent, which is how
    round the corner is at ‖g‖ = LIMIT.
    """
    units = 3 + len(STEPS_DOWN)
    rule = rules.CoordinatewiseLSTM(
        units=units,
        layers=2,
        output_scale=1.0,
        preprocessing="raw",
        averaging_cells=averaging_cells,
    )
    entry, forget, candidate, exit_ = units * np.arange(4)
    first = np.zeros((1 + units, 4 * units))
    second = np.zeros((2 * units, 4 * units))
    bias = np.zeros(4 * units)
    bias[forget : forget + units] = -OPEN
    bias[exit_ : exit_ + units] = OPEN
    bias_of_second = bias.copy()

    for cell, sign in ((0, 1.0), (1, -1.0)):
        first[0, entry + cell] = sign * CURVATURE
        first[0, candidate + cell] = sign * SMALL
    first[0, candidate + 2] = SMALL
    bias[entry + 2] = OPEN

    cells = np.arange(3, units)
    second[2, candidate + cells] = 1.0
    bias_of_second[entry + cells] = OPEN
    steps_of_s = STEPS_DOWN * SMALL * CURVATURE / (2 * N)
    second[:2, exit_ + cells] = -2.0 / steps_of_s
    bias_of_second[exit_ + cells] = 2.0

    norms = np.geomspace(NORMS[0], NORMS[-1], 300)
    # σ(2x) = (1 + tanh x) / 2
    gates = (1 + np.tanh(1 - norms[:, None] ** 2 / STEPS_DOWN)) / 2
    wanted = np.minimum(1.0, LIMIT / norms)
    weights, *_ = np.linalg.lstsq(
        gates / wanted[:, None], np.ones_like(norms), rcond=1e-4
    )
    output = np.zeros((units, 1))
    output[3:, 0] = -RATE * weights / SMALL
    rule.set_weights([first, bias, second, bias_of_second, output, np.zeros(1)])
    return rule


def error_of_clipping(rule, shape_of_gradient, norm):
    """The error of an update, relative to the norm of the right one."""
    gradient = shape_of_gradient / np.linalg.norm(shape_of_gradient) * norm
    # Cut into variables, as the norm is that of all of them together.
    gradients = np.split(gradient.astype("float32"), [3, 4])
    parameters = [tf.zeros_like(g) for g in gradients]
    updates, _ = rule(gradients, parameters, rule.initial_state(parameters))
    wanted = -RATE * min(1.0, LIMIT / norm) * gradient
    error = np.linalg.norm(np.concatenate(updates) - wanted)
    return error / np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", ["dense", "one-sided", "sparse"])
def test_can_clip_the_gradient_by_its_norm(kind):
    rng = np.random.default_rng(0)
    gradient = {
        "dense": rng.normal(size=N),
        "one-sided": rng.uniform(0.5, 1.0, size=N),
        "sparse": np.eye(N)[7] + 0.5 * np.eye(N)[1],
    }[kind]
    rule = clipping_lstm()
    for norm in NORMS:
        assert error_of_clipping(rule, gradient, norm) < 0.05


def test_cannot_clip_without_averages():
    one_hot = np.eye(N)[7]
    assert error_of_clipping(clipping_lstm(), one_hot, LIMIT / 3) < 0.05
    blind = clipping_lstm(averaging_cells=0)
    assert error_of_clipping(blind, one_hot, LIMIT / 3) > 0.3


def test_averages_over_all_coordinates_of_all_parameters():
    gradients = [tf.constant([[1.0, -2.0]]), tf.constant([0.5, 3.0, -1.0])]

    def hidden(averaging_cells):
        rule = rules.CoordinatewiseLSTM(
            units=3, layers=1, averaging_cells=averaging_cells, seed=1
        )
        state = rule.initial_state(gradients)
        _, state = rule(gradients, gradients, state)
        return np.concatenate([s["hidden_0"] for s in state.local])  # [5, 3]

    mixed, alone = hidden(averaging_cells=2), hidden(averaging_cells=0)
    np.testing.assert_array_equal(mixed[:, 2], alone[:, 2])
    mean = np.tile(alone[:, :2].mean(0), (5, 1))
    np.testing.assert_allclose(mixed[:, :2], mean, rtol=1e-6)


@pytest.mark.parametrize("averaging_cells", [-1, 4, 1.0])
def test_refuses_another_number_of_cells(averaging_cells):
    with pytest.raises(ValueError, match="integer from 0 to `units`=3"):
        rules.CoordinatewiseLSTM(units=3, averaging_cells=averaging_cells)
