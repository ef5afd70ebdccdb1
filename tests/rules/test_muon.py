"""Muon equals that of optax, step for step."""

import jax
import numpy as np
import optax
import pytest
from keras import ops

from keras_l2l import rules

SHAPES = [(9, 4), (4, 3), (2, 3, 2), (3, 2, 2, 5), (5,), (), (5, 2)]
PATHS = ["embedding/table", "a/kernel", "b/kernel", "c/kernel", "", "", "d"]


def _values(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in SHAPES]


@pytest.mark.slow
@pytest.mark.parametrize("adam_head", [True, False])
def test_equals_optax_step_for_step(adam_head):
    rule = rules.Muon(
        0.02,
        momentum=0.9,
        beta_1=0.8,
        beta_2=0.99,
        adam_head=adam_head,
        dtype="float64",
    )
    matrix = optax.contrib.MuonDimensionNumbers
    specs = [
        *(None, matrix(0, 1), matrix((0, 1), 2), matrix((0, 1, 2), 3)),
        *(None, None, None if adam_head else matrix(0, 1)),
    ]
    with jax.enable_x64(True):
        twin = optax.contrib.muon(
            0.02,
            beta=0.9,
            adam_b1=0.8,
            adam_b2=0.99,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=specs,
        )
        ours = [ops.convert_to_tensor(v) for v in _values(0)]
        theirs = [jax.numpy.asarray(v) for v in _values(0)]
        state, their_state = rule.named_initial_state(ours, PATHS), None
        their_state = twin.init(theirs)
        for step in range(12):
            gradients = [
                np.asarray(p) - target + 0.3 * noise
                for p, target, noise in zip(ours, _values(1), _values(2 + step))
            ]
            updates, state = rule(
                [ops.convert_to_tensor(g) for g in gradients], ours, state
            )
            ours = [p + u for p, u in zip(ours, updates)]
            updates, their_state = twin.update(gradients, their_state, theirs)
            theirs = optax.apply_updates(theirs, updates)
            for one, two in zip(ours, theirs):
                np.testing.assert_allclose(one, two, 1e-7, 1e-9)


def test_adam_updates_vectors_embeddings_and_the_head():
    state = rules.Muon().named_initial_state(_values(0), PATHS)
    kernels = ["momentum" in local for local in state.local]
    assert kernels == [False, True, True, True, False, False, False]
    # Without paths an embedding is a matrix like others.
    assert "momentum" in rules.Muon().initial_state(_values(0)).local[0]
