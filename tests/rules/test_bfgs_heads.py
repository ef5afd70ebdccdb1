"""NTM-BFGS that begins as BFGS: equal to it, and able to leave it."""

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import rules
from keras_l2l.rules.secant_update import SecantPair

N = 6
STEPS = 24


def _quadratic(condition=20.0):
    generator = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(generator.normal(size=(N, N)))
    hessian = rotation @ np.diag(np.geomspace(1, 1 / condition, N)) @ rotation.T
    return hessian, generator.normal(size=N)


def _bfgs_path(hessian, start):
    """BFGS with unit steps, H = sᵀy / yᵀy at the first pair."""
    inverse, path = np.eye(N), [start]
    for step in range(STEPS):
        gradient = hessian @ path[-1]
        if step:
            s = path[-1] - path[-2]
            y = hessian @ s
            rho = 1.0 / (y @ s)
            if step == 1:
                inverse *= (y @ s) / (y @ y)
            left = np.eye(N) - rho * np.outer(s, y)
            inverse = left @ inverse @ left.T + rho * np.outer(s, s)
        path.append(path[-1] - inverse @ gradient)
    return np.stack(path)


def _rule(**arguments):
    arguments = {"dtype": "float64", "preprocessing": "raw", **arguments}
    return rules.NTMBFGS(
        units=3, layers=1, initialization="bfgs", seed=1, **arguments
    )


def _path(rule, hessian, start, steps=STEPS):
    # In two variables, which the memory takes as one.
    parameters = [tf.constant(start[:2]), tf.constant(start[2:])]
    state = rule.initial_state(parameters)
    path = [start]
    for _ in range(steps):
        gradient = hessian @ np.concatenate(parameters)
        updates, state = rule(
            [tf.constant(gradient[:2]), tf.constant(gradient[2:])],
            parameters,
            state,
        )
        parameters = [p + u for p, u in zip(parameters, updates)]
        path.append(np.concatenate(parameters))
    return np.stack(path)


def test_untrained_it_is_bfgs_with_unit_steps():
    hessian, start = _quadratic()
    path = _path(_rule(), hessian, start)
    np.testing.assert_allclose(
        path, _bfgs_path(hessian, start), rtol=1e-6, atol=1e-9
    )
    assert np.abs(path[-1]).max() < 1e-2 * np.abs(path[1]).max()


@pytest.mark.slow
def test_low_rank_is_lbfgs_and_ends_where_the_full_memory_does():
    hessian, start = _quadratic()
    path = _path(_rule(memory="low_rank", rank=10), hessian, start, 40)
    full = _path(_rule(), hessian, start, 40)
    # H of the first pair is the same; then each has a scale of its own.
    np.testing.assert_allclose(path[:3], full[:3], rtol=1e-9)
    assert np.abs(path[3] - full[3]).max() > 1e-6
    assert np.abs(path[-1]).max() < 1e-8


def test_the_mixing_of_sr1_finds_a_hessian_in_as_many_pairs_as_dimensions():
    hessian, _ = _quadratic()
    inverse = 0.5 * np.eye(N)  # Below the inverse Hessian.
    generator = np.random.default_rng(1)
    for _ in range(N):
        step = generator.normal(size=N)
        pair = SecantPair(tf.constant(step), tf.constant(hessian @ step))
        product = tf.linalg.matvec(inverse, pair.change)
        mixing = 1.0 / (1.0 - pair.ratio(product))
        left, right = pair.vectors(product, mixing, tf.constant(1.0, "float64"))
        inverse = inverse + left.numpy() @ right.numpy().T
    np.testing.assert_allclose(inverse @ hessian, np.eye(N), atol=1e-6)


@pytest.mark.slow
def test_every_output_changes_the_path():
    hessian, start = _quadratic()
    paths = [_path(_rule(), hessian, start)]
    for index in range(6):
        rule = _rule()
        *others, bias = rule.get_weights()
        bias[index] = 1.0
        rule.set_weights([*others, bias])
        paths.append(_path(rule, hessian, start))
    for index, path in enumerate(paths):
        for other in paths[:index]:
            assert np.abs(path - other).max() > 1e-4


def test_a_step_is_at_most_ten_times_as_long_as_the_last():
    rule = _rule()
    parameters = [tf.zeros(N, "float64")]
    state = rule.initial_state(parameters)
    direction = np.ones(N)
    small, large = tf.constant(1e-3 * direction), tf.constant(direction)
    updates, state = rule([small], parameters, state)
    np.testing.assert_allclose(updates[0], -1e-3 * direction)
    parameters = [parameters[0] + updates[0]]
    updates, state = rule([large], parameters, state)
    np.testing.assert_allclose(updates[0], -1e-2 * direction)


def test_the_setting_is_kept():
    rule = _rule(memory="low_rank", rank=10)
    twin = rules.NTMBFGS.from_config(rule.get_config())
    assert twin.initialization == "bfgs"
    assert [w.shape for w in twin.weights] == [w.shape for w in rule.weights]
    assert rules.NTMBFGS().get_config()["initialization"] == "random"
