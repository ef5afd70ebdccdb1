"""Functions of a rule that are traced once, and live as long as it does."""

import weakref

import tensorflow as tf

_steps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def step_of(rule):
    """A rule's step, traced once for each list of shapes.

    A function that creates variables is traced twice, as that of `fit()` is.
    A rule's step has hundreds of operations for each tensor; with this, the
    second time it is a call.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function with the arguments and the results of `rule`. The rule itself
        where nothing is traced, or where a strategy has devices for it.
    """
    if tf.executing_eagerly() or tf.distribute.has_strategy():
        return rule
    return once(_steps, rule, step)


def step(rule, gradients, parameters, state):
    return rule(gradients, parameters, state)


def once(functions, rule, function, jit_compile=None):
    """A `tf.function` that belongs to a rule.

    Args:
        functions: Dict from rules to functions with weak keys, for one
            `function`.
        rule: An `UpdateRule`.
        function: Function of a rule and more arguments.
        jit_compile: As in `tf.function`. Defaults to `None`.

    Returns:
        Function of the other arguments, the same whenever it is asked for.
    """
    if rule not in functions:
        # The function must not keep its own key alive.
        proxy = weakref.proxy(rule)

        @tf.function(autograph=False, jit_compile=jit_compile)
        def call(*arguments):
            return function(proxy, *arguments)

        functions[rule] = call
    return functions[rule]
