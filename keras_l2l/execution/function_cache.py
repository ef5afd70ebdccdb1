"""A cache of `tf.function`s by rule; a rule's functions live as long as it."""

import weakref

import tensorflow as tf

_steps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def traced_rule(rule):
    """The step of a rule as a function that is traced once per list of shapes.

    Keras traces the function of `fit()` twice if it creates variables. The
    step of a rule has hundreds of operations for each tensor; with this cache
    the second trace holds one call.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function with the arguments and the results of `rule`. The rule itself
        in eager mode, and under a strategy, whose replicas trace their own.
    """
    if tf.executing_eagerly() or tf.distribute.has_strategy():
        return rule
    return cached_function(_steps, rule, call_rule)


def call_rule(rule, gradients, parameters, state):
    """A step of a rule, as a function of the rule."""
    return rule(gradients, parameters, state)


def cached_function(functions, rule, function, jit_compile=None):
    """The `tf.function` of a rule, made at the first request.

    Args:
        functions: `WeakKeyDictionary` from rules to functions: the cache for
            this `function`.
        rule: An `UpdateRule`.
        function: Function of a rule and further arguments.
        jit_compile: As in `tf.function`. Defaults to `None`.

    Returns:
        Function of the further arguments, the same object at each request.
    """
    if rule not in functions:
        # A strong reference from the value would keep its own key alive.
        proxy = weakref.proxy(rule)

        @tf.function(autograph=False, jit_compile=jit_compile)
        def call(*arguments):
            return function(proxy, *arguments)

        functions[rule] = call
    return functions[rule]
