"""Rules that must equal a transformation of optax, step for step."""

import functools

import jax
import numpy as np
import optax
import pytest
from keras import ops

from keras_l2l import rules

SHAPES = [(4, 3), (5,), (), (2, 3, 2)]
STEPS = 20
OTHERS = {"beta_2": 0.99, "epsilon": 1e-3, "weight_decay": 0.1}
THEIR_OTHERS = {"eps": 1e-3, "weight_decay": 0.1}

# Name → the rule of a dtype, and its twin.
TWINS = {
    "prodigy": (rules.Prodigy, optax.contrib.prodigy()),
    "prodigy-other": (
        functools.partial(
            rules.Prodigy, 0.5, beta_1=0.8, initial_distance=0.01, **OTHERS
        ),
        optax.contrib.prodigy(
            0.5, betas=(0.8, 0.99), estim_lr0=0.01, **THEIR_OTHERS
        ),
    ),
    "schedule-free": (
        rules.ScheduleFreeAdamW,
        optax.contrib.schedule_free_adamw(),
    ),
    "schedule-free-other": (
        functools.partial(
            rules.ScheduleFreeAdamW, 0.1, warmup_steps=7, beta_1=0.6, **OTHERS
        ),
        optax.contrib.schedule_free_adamw(
            0.1, warmup_steps=7, b1=0.6, b2=0.99, **THEIR_OTHERS
        ),
    ),
}


def _values(seed, dtype):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in SHAPES]


def _gradients(parameters, step, dtype):
    """Noisy gradients of a quadratic, which depend on the rule's iterates."""
    return [
        2.0 * (np.asarray(p) - target) + 0.3 * noise
        for p, target, noise in zip(
            parameters, _values(1, dtype), _values(2 + step, dtype)
        )
    ]


# In float32 a parameter minus where it started is known to some digits only;
# the schedules of optax are in float32, whatever the rest.
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        ("float64", 1e-7),
        pytest.param("float32", 1e-5, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", TWINS)
def test_equals_optax_step_for_step(name, dtype, tolerance):
    make_rule, transformation = TWINS[name]
    rule = make_rule(dtype=dtype)

    def assert_equal(ours, theirs):
        for one, two in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, two, tolerance, tolerance)

    with jax.enable_x64(dtype == "float64"):
        ours = [ops.convert_to_tensor(v) for v in _values(0, dtype)]
        theirs = [jax.numpy.asarray(v) for v in _values(0, dtype)]
        state = rule.initial_state(ours)
        their_state = transformation.init(theirs)
        for step in range(STEPS):
            updates, state = rule(
                [
                    ops.convert_to_tensor(g)
                    for g in _gradients(ours, step, dtype)
                ],
                ours,
                state,
            )
            ours = [p + u for p, u in zip(ours, updates)]
            updates, their_state = transformation.update(
                _gradients(theirs, step, dtype), their_state, theirs
            )
            theirs = optax.apply_updates(theirs, updates)
            assert_equal(ours, theirs)
            if isinstance(rule, rules.ScheduleFreeAdamW):
                assert_equal(
                    rule.evaluation_parameters(ours, state),
                    optax.contrib.schedule_free_eval_params(
                        their_state, theirs
                    ),
                )
    if isinstance(rule, rules.Prodigy):
        assert state.shared["distance"] > 2.0 * rule.initial_distance
