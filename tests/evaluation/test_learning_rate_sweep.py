import math

import pytest

from keras_l2l.evaluation.learning_rate_sweep import rate_grid, sweep


def test_a_grid_is_round():
    assert rate_grid(0.01, 1.0) == (0.01, 0.03, 0.1, 0.3, 1.0)
    assert rate_grid(1e-3, 0.05, (1, 2, 5)) == (
        *(0.001, 0.002, 0.005),
        *(0.01, 0.02, 0.05),
    )


@pytest.mark.parametrize("optimum", [1e-3, 0.5, 300.0])
def test_the_sweep_leaves_its_grid_if_it_must(optimum):
    found = sweep(
        "toy", (0.1, 1.0, 10.0), lambda rate: abs(math.log(rate / optimum))
    )
    assert found.best == pytest.approx(optimum, rel=1.2)
    assert not found.on_border
    assert found.learning_rates == tuple(sorted(found.learning_rates))
    assert (
        min(found.scores)
        == found.scores[found.learning_rates.index(found.best)]
    )


def test_an_endless_sweep_ends_and_says_so():
    found = sweep("toy", (0.1, 1.0), lambda rate: -rate)
    assert found.on_border
    assert found.best == pytest.approx(1e4)
    assert sweep("toy", (0.1, 1.0), lambda rate: math.inf).on_border
