"""Runs a test module of the installed Keras against `L2LOptimizer`.

    python -m tests.optimizers.keras_suite MODULE

Keras's optimizers of the module are replaced by `L2LOptimizer`s whose rule is
the same algorithm, so that its numbers hold, too. Prints a JSON list of the
names of the tests that failed, and one of all that ran.
"""

import contextlib
import importlib
import io
import json
import os
import sys
import types
import unittest
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import keras.src.optimizers as keras_optimizers

from keras_l2l import L2LOptimizer, rules

# Tests without an optimizer, which take minutes, or which fork this process
# and wait for ever if TensorFlow has threads in it.
WITHOUT_OPTIMIZER = "test_weights_sharding", "test_load_model_concurrently"


class SGD(L2LOptimizer):
    """Takes the arguments of `keras.optimizers.SGD`."""

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        rule=None,
        **kwargs,
    ):
        if rule is None:
            rule = (
                rules.Momentum(1.0, momentum, nesterov=nesterov)
                if momentum
                else rules.SGD(1.0)
            )
        super().__init__(rule, learning_rate, **kwargs)


class Adam(L2LOptimizer):
    """Takes the arguments of `keras.optimizers.Adam`."""

    def __init__(self, learning_rate=0.001, rule=None, **kwargs):
        super().__init__(rule or rules.Adam(1.0), learning_rate, **kwargs)


def run(name):
    """Names of the tests that failed, and of all."""
    replaced = {"SGD": SGD, "Adam": Adam}
    for cls in replaced.values():
        keras.saving.register_keras_serializable("keras_suite")(cls)
    if name.endswith("sparse_test"):
        # It takes the classes while it is imported.
        vars(keras_optimizers).update(replaced)
    module = importlib.import_module(name)
    if hasattr(module, "optimizers"):
        names = {**vars(keras_optimizers), **replaced}
        module.optimizers = types.SimpleNamespace(**names)
    elif hasattr(module, "SGD"):
        module.SGD = SGD
    else:
        # By name, in `model.compile(optimizer="sgd")`.
        keras_optimizers.ALL_OBJECTS_DICT.update(sgd=SGD, adam=Adam)
    suite = unittest.TestSuite(
        test
        for test in flatten(
            unittest.defaultTestLoader.loadTestsFromModule(module)
        )
        if not name_of(test).startswith(WITHOUT_OPTIMIZER)
    )
    result = unittest.TextTestResult(
        unittest.runner._WritelnDecorator(io.StringIO()), True, 2
    )
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        suite.run(result)
    failed = [*result.failures, *result.errors]
    for test, traceback in failed:
        print(test.id(), traceback[-600:], file=sys.stderr)
    return sorted({name_of(test) for test, _ in failed}), (
        result.testsRun - len(result.skipped)
    )


def flatten(suite):
    """The tests of a suite of suites."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def name_of(test):
    return test.id().split(".")[-1]


if __name__ == "__main__":
    failures, count = run(sys.argv[1])
    print(json.dumps({"failures": failures, "count": count}))
