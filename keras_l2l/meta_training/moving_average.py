"""The moving average of the meta-parameters, with `use_ema=True`."""

import contextlib


def write_average(rule, optimizer):
    """Gives a rule the average of its meta-parameters, if there is one.

    Args:
        rule: An `UpdateRule`.
        optimizer: The meta-optimizer, a `keras.optimizers.Optimizer`.
    """
    # Before the first step the average is zero.
    if optimizer.iterations.numpy() > 0:
        optimizer.finalize_variable_values(rule.trainable_variables)


@contextlib.contextmanager
def averaged(rule, optimizer):
    """A context in which a rule has its averaged meta-parameters.

    Args:
        rule: An `UpdateRule`.
        optimizer: The meta-optimizer.
    """
    weights = rule.get_weights()
    write_average(rule, optimizer)
    try:
        yield
    finally:
        rule.set_weights(weights)


def reset_weights(rule, optimizer, weights):
    """Sets the meta-parameters, and their average to the same values.

    Args:
        rule: An `UpdateRule`.
        optimizer: The meta-optimizer.
        weights: List of arrays, as from `rule.get_weights()`.
    """
    rule.set_weights(weights)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer.use_ema:
        # Keras has no public name for it; its `SwapEMAWeights` uses this one.
        averages = optimizer._model_variables_moving_average
        for average, variable in zip(averages, rule.trainable_variables):
            average.assign(variable)
