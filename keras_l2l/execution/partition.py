"""Independent parts of an optimizee, on which a rule's step runs one by one.

A part is a block of coordinates, a tensor, or the whole model, as the rule's
granularity has it. TensorFlow runs the steps on several parts in parallel, and
the temporaries of a step on a block fit into the processor's cache. As all
blocks have one size, XLA compiles the step once.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

# Coordinates. Half and twice as many were slower.
BLOCK_SIZE = 2**11

# Each block is a call in the graph, which takes time to trace.
MOST_BLOCKS = 2**5


class StepInputs(NamedTuple):
    """Arguments of a rule's step on one part.

    Attributes:
        gradients: List of tensors.
        parameters: List of tensors, shaped as the gradients.
        state: A `RuleState`.
    """

    gradients: Any
    parameters: Any
    state: Any


def partition(size, optimizees=1):
    """The shape of equal blocks that cover all coordinates.

    Args:
        size: Integer. Coordinates of an optimizee.
        optimizees: Integer. Optimizees side by side, `K`, each of which has
            the same number of coordinates in every block.

    Returns:
        Tuple `(blocks, length)` of integers: the number of blocks, and the
        coordinates of one optimizee in each of them. `blocks * length` is at
        least `size`; only the last block is not full.
    """
    # A power of two, which any usual number of cores divides evenly.
    wanted = 2 ** round(math.log2(max(1.0, optimizees * size / BLOCK_SIZE)))
    length = math.ceil(size / min(wanted, MOST_BLOCKS))
    return math.ceil(size / length), length


def by_blocks(rule, step):
    """A rule's step, block by block if its coordinates are independent.

    Args:
        rule: An `UpdateRule`.
        step: Function with the arguments and the results of `rule`.

    Returns:
        Function like `step`.
    """
    if rule.granularity != "coordinate":
        return step

    # One trace for all blocks. Not cached: the values of meta-parameters may
    # be those of a `StatelessScope`.
    @tf.function(autograph=False)
    def traced_step(gradients, parameters, state):
        return step(gradients, parameters, state)

    def call(gradients, parameters, state):
        parts = split_parts(rule, gradients, parameters, state)
        is_eager = tf.executing_eagerly() or len(parts) == 1
        run = step if is_eager else traced_step
        return join_parts([run(*part) for part in parts])

    return call


def split_parts(rule, gradients, parameters, state):
    """The arguments of a rule's step, part by part.

    Args:
        rule: An `UpdateRule`.
        gradients: List of tensors.
        parameters: List of tensors.
        state: A `RuleState`.

    Returns:
        List of `StepInputs`.
    """
    if rule.granularity == "model":
        return [StepInputs(gradients, parameters, state)]
    return [
        StepInputs([gradient], [parameter], state._replace(local=[local]))
        for gradient, parameter, local in zip(
            gradients, parameters, state.local
        )
    ]


def join_parts(results):
    """The result of a rule's step, from its results on the parts.

    Args:
        results: List of tuples `(updates, state)`, one for each part.

    Returns:
        Tuple `(updates, state)`.
    """
    updates = [update for updates, _ in results for update in updates]
    local = [one for _, state in results for one in state.local]
    # The shared state does not depend on the part.
    return updates, results[0][1]._replace(local=local)
