"""The memory of NTM-BFGS, alone and behind its controller."""

import itertools

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from keras_l2l import L2LOptimizer, rules
from keras_l2l.rules.external_memory import (
    MAX_FULL_SIZE,
    FullMemory,
    LowRankMemory,
)

N = 6


def _initial(memory):
    return (
        memory.initial_local(N, "float64"),
        memory.initial_shared(N, "float64"),
    )


def _columns(*vectors):
    return tf.constant(np.stack(vectors, -1), "float64")


def _matrix(memory, state):
    """What is in the memory, read column by column."""
    return memory.read(*state, tf.eye(N, dtype="float64")).numpy()


@pytest.mark.parametrize("memory", [FullMemory(), LowRankMemory(rank=15)])
def test_three_write_heads_and_a_read_head_are_bfgs(memory):
    """On the path of SciPy's BFGS they hold its inverse Hessian."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(N, N))
    hessian, offset = root @ root.T + np.eye(N), rng.normal(size=N)

    def gradient_at(x):
        return hessian @ x - offset

    path = [np.zeros(N)]
    result = scipy.optimize.minimize(
        lambda x: x @ hessian @ x / 2 - offset @ x,
        path[0],
        jac=gradient_at,
        method="BFGS",
        callback=lambda x: path.append(x.copy()),
        options={"maxiter": 5},  # before differences are rounded away
    )
    assert result.nit == len(path) - 1 == 5

    state = _initial(memory)
    for before, after in itertools.pairwise(path):
        s, y = after - before, gradient_at(after) - gradient_at(before)
        (hy,) = memory.read(*state, _columns(y)).numpy().T
        # H ← H - ρ s (Hy)ᵀ - ρ (Hy) sᵀ + ρ (1 + ρ yᵀHy) s sᵀ
        rho = 1.0 / (y @ s)
        state = memory.write(
            *state,
            _columns(-rho * s, -rho * hy, rho * (1.0 + rho * (y @ hy)) * s),
            _columns(hy, s, s),
        )
    np.testing.assert_allclose(
        _matrix(memory, state), result.hess_inv, rtol=1e-9, atol=1e-12
    )
    assert np.abs(result.hess_inv - np.eye(N)).max() > 0.1


def test_low_rank_is_full_until_it_forgets_the_oldest_pairs():
    full, low_rank = FullMemory(), LowRankMemory(rank=5)
    states = [_initial(full), _initial(low_rank)]
    left, right = np.random.default_rng(0).normal(size=(2, 6, N))
    # Two heads and room for five pairs: the third write drops one.
    for step in range(3):
        written = slice(2 * step, 2 * step + 2)
        states = [
            memory.write(
                *state, _columns(*left[written]), _columns(*right[written])
            )
            for memory, state in zip((full, low_rank), states)
        ]
        kept = slice(max(0, written.stop - 5), written.stop)
        expected = np.eye(N) + left[kept].T @ right[kept]
        np.testing.assert_allclose(_matrix(low_rank, states[1]), expected)
        is_full = np.allclose(_matrix(full, states[0]), expected)
        assert is_full == (step < 2)


@pytest.mark.parametrize("memory", ["full", "low_rank"])
def test_equals_an_lstm_cell_beside_a_matrix(memory):
    """Cell, averages, heads and memory, step by step as the paper has them."""
    rule = rules.NTMBFGS(
        units=4,
        layers=1,
        averaging_cells=1,
        read_heads=1,
        write_heads=2,
        memory=memory,
        rank=6,
        output_scale=0.5,
        preprocessing="raw",
        seed=3,
    )
    kernel, bias, output_kernel, output_bias = rule.get_weights()
    cell = keras.layers.LSTMCell(4)
    cell.build((None, 2))
    cell.set_weights([kernel[:2], kernel[2:], bias])
    shapes = [(2, 2), (2,)]
    parameters = [tf.zeros(shape) for shape in shapes]
    state = rule.initial_state(parameters)
    hidden = [tf.zeros((N, 4))] * 2
    matrix, read = np.eye(N), np.zeros(N)
    for step in range(3):
        gradient = np.random.default_rng(step).normal(size=N).astype("float32")
        gradients = [gradient[:4].reshape(2, 2), gradient[4:]]
        updates, state = rule(gradients, parameters, state)

        inputs = np.stack([gradient, read], -1).astype("float32")
        output, (_, candidate) = cell(inputs, hidden)
        output = output.numpy()
        output[:, 0] = output[:, 0].mean()
        hidden = [tf.constant(output), candidate]
        update, r, a, c, b, d = (output @ output_kernel + output_bias).T
        read = matrix @ r
        matrix = matrix + np.outer(a, b) + np.outer(c, d)
        np.testing.assert_allclose(
            np.concatenate([np.ravel(u) for u in updates]),
            0.5 * update,
            rtol=1e-5,
            atol=1e-6,
        )
    # The memory did matter.
    assert np.abs(matrix - np.eye(N)).max() > 1e-3


def test_a_large_model_needs_the_low_rank_memory():
    parameters = [tf.zeros((MAX_FULL_SIZE,)), tf.zeros((1,))]
    with pytest.raises(ValueError, match=r'"low_rank" .* for 8193 coordinates'):
        rules.NTMBFGS().initial_state(parameters)
    rules.NTMBFGS(memory="low_rank", rank=3).initial_state(parameters)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_only_the_full_memory_needs_all_gradients():
    gradients = [tf.constant([1.0, -1.0]), None]

    def train(memory):
        variables = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
        optimizer = L2LOptimizer(rules.NTMBFGS(units=2, memory=memory))
        optimizer.apply(gradients, variables)
        return [v.numpy() for v in variables]

    moved, left_alone = train("low_rank")
    assert (moved != [1.0, 2.0]).all()
    assert left_alone == [3.0]
    with pytest.raises(ValueError, match="Expected: 3 coordinates"):
        train("full")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": "large"}, '`memory` must be "full" or "low_rank"'),
        ({"rank": 2}, "`rank` must not be less than `write_heads`"),
        ({"read_heads": 0}, "`read_heads` must be a positive integer"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        rules.NTMBFGS(**arguments)
