"""Arguments of `MetaTrainer` that cannot be."""

import pytest

from keras_l2l import MetaTrainer, rules, tasks


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rule": 3}, TypeError, "`rule` must be a"),
        ({"task": 3}, TypeError, "`task` must be a"),
        ({"task": []}, TypeError, "`task` must be a"),
        ({"horizon": 10, "unroll": 4}, ValueError, "multiple of `unroll`"),
        ({"unroll": 0}, ValueError, "`unroll` must be a positive integer"),
        ({"optimizees": 1.5}, ValueError, "`optimizees` must be a positive"),
        ({"loss_weights": [1.0]}, ValueError, "one finite float for each"),
        ({"estimator": 3}, TypeError, "`estimator` must be a"),
        ({"divergence_limit": 1.0}, ValueError, "must be greater than 1"),
        ({"tasks_per_step": 2}, ValueError, "must not exceed the number of"),
        ({"clipnorm": 0.0}, ValueError, "`clipnorm` must be a positive"),
        ({"seed": -1}, ValueError, "`seed` must be an integer, zero or"),
        ({"seed": 0.5}, ValueError, "`seed` must be an integer, zero or"),
    ],
)
def test_refuses(arguments, error, message):
    good = {
        "rule": rules.SGD(),
        "task": tasks.Quadratic(),
        "horizon": 12,
        "unroll": 4,
    }
    with pytest.raises(error, match=message):
        MetaTrainer(**{**good, **arguments})
