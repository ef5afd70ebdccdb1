"""What Keras does not promise, and `L2LOptimizer` relies on.

If one of these tests fails with a new version of Keras, its optimizers have
changed inside: compare `keras/src/optimizers/base_optimizer.py` and
`keras/src/backend/tensorflow/optimizer.py` with the hooks in
`keras_l2l/optimizers/l2l_optimizer.py`.
"""

import inspect

import keras
import pytest
import tensorflow as tf

from keras_l2l import L2LOptimizer, rules

# Methods that are overridden or called, and what they take.
HOOKS = {
    "_apply_weight_decay": ["variables"],
    "_use_weight_decay": ["variable"],
    "_all_reduce_sum_gradients": ["grads_and_vars"],
    "_backend_update_step": ["grads", "trainable_variables", "learning_rate"],
    "_distributed_tf_update_step": [
        "distribution",
        "grads_and_vars",
        "learning_rate",
    ],
    "_update_model_variables_moving_average": ["trainable_variables"],
}


@pytest.mark.parametrize("name", HOOKS)
def test_keras_has_the_hook(name):
    hook = getattr(keras.optimizers.Optimizer, name, None)
    assert hook is not None, f"Keras has no `Optimizer.{name}` any more"
    received = list(inspect.signature(hook).parameters)[1:]
    assert received == HOOKS[name], f"`Optimizer.{name}` takes {received} now"


def test_keras_calls_the_hooks_in_this_order(monkeypatch):
    calls = []

    def record(name):
        hook = getattr(L2LOptimizer, name)

        def recorded(self, *arguments):
            calls.append(name)
            return hook(self, *arguments)

        monkeypatch.setattr(L2LOptimizer, name, recorded)

    for name in HOOKS:
        record(name)
    optimizer = L2LOptimizer(rules.SGD(), weight_decay=0.1, use_ema=True)
    optimizer.apply([tf.constant([1.0])], [keras.Variable([1.0])])
    expected = [
        "_apply_weight_decay",
        "_backend_update_step",
        "_all_reduce_sum_gradients",
        "_distributed_tf_update_step",
        # Ours, within the step.
        "_use_weight_decay",
        "_update_model_variables_moving_average",
    ]
    assert calls == expected, (
        f"Keras calls {calls} in a step now, and no longer {expected}"
    )


def test_keras_keeps_the_averages_where_they_were():
    optimizer = L2LOptimizer(rules.SGD(), use_ema=True)
    optimizer.build([keras.Variable([1.0])])
    (average,) = optimizer._model_variables_moving_average
    assert isinstance(average, keras.Variable)


def test_keras_gives_away_the_variable_of_tensorflow():
    """Under a strategy, too, the step gets the object that `build` got."""
    variable = keras.Variable([1.0])
    assert variable.value is variable.value
    assert isinstance(variable.value, tf.Variable)
