"""The outer step of `outer_step.py` in plain JAX, for comparison.

The loop over the inner steps knows nothing of the rule, which is the same LSTM
written by hand, or that of another library.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from workloads import BATCH_SIZE, EXAMPLES

UNITS, LAYERS, OUTPUT_SCALE, P = 20, 2, 0.1, 10.0


class Rule(NamedTuple):
    """An update rule as three functions.

    Attributes:
        start: (φ, parameters) → state, which holds the parameters.
        step: (φ, state, gradients, loss) → state.
        parameters: state → parameters.
    """

    start: Any
    step: Any
    parameters: Any


def lstm():
    """`CoordinatewiseLSTM(20, 2)`; φ is the list of its weights."""

    def start(phi, parameters):
        count = sum(p.size for p in parameters)
        zeros = jnp.zeros((count, UNITS))
        return parameters, [(zeros, zeros)] * LAYERS

    def step(phi, state, gradients, loss):
        parameters, cells = state
        gradient = jnp.concatenate([g.reshape(-1) for g in gradients])
        update, cells = _lstm(phi, gradient, cells)
        sizes = [p.size for p in parameters]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = jnp.split(update, ends)
        parameters = [p + u.reshape(p.shape) for p, u in zip(parameters, parts)]
        return parameters, cells

    return Rule(start, step, lambda state: state[0])


def mlp_lopt():
    """`MLPLOpt` of google/learned_optimization, and its initial φ."""
    from learned_optimization.learned_optimizers.mlp_lopt import MLPLOpt

    # Its summaries are for TensorBoard, and no part of the rule.
    learned = MLPLOpt(compute_summary=False)
    rule = Rule(
        lambda phi, parameters: learned.opt_fn(phi).init(parameters),
        lambda phi, state, gradients, loss: learned.opt_fn(phi).update(
            state, gradients, loss
        ),
        lambda state: state.params,
    )
    return rule, learned.init(jax.random.key(0))


def meta_loss(phi, rule, parameters, sample, steps):
    """The mean of an optimizee's losses after each step of an unroll.

    Args:
        phi: The meta-parameters.
        rule: A `Rule`.
        parameters: List of arrays: kernel, bias, kernel, bias.
        sample: Function from a step to a batch `(x, y)`.
        steps: Integer.

    Returns:
        A scalar.
    """

    # Without it, scan would keep the inside of the rule for each step.
    @jax.checkpoint
    def body(state, step):
        loss, gradients = jax.value_and_grad(_loss)(
            rule.parameters(state), sample(step)
        )
        # As in the paper, and in ours: ∂∇f/∂φ = 0.
        gradients = lax.stop_gradient(gradients)
        return rule.step(phi, state, gradients, loss), loss

    state, losses = lax.scan(
        body, rule.start(phi, parameters), jnp.arange(steps)
    )
    last = _loss(rule.parameters(state), sample(steps))
    return (jnp.sum(losses[1:]) + last) / steps


def meta_gradient(phi, parameters, batches):
    """The gradient of the meta-loss of the LSTM on given batches.

    Args:
        phi: List of arrays.
        parameters: List of arrays.
        batches: Pair of arrays `[T + 1, …]`.

    Returns:
        List of arrays, shaped as `phi`.
    """

    @jax.jit
    def gradient(phi, parameters, batches):
        xs, ys = batches
        return jax.grad(meta_loss)(
            phi,
            lstm(),
            parameters,
            lambda step: (xs[step], ys[step]),
            len(xs) - 1,
        )

    return gradient(phi, parameters, batches)


def meta_step(rule, phi, parameters, data, steps):
    """One outer step: an unroll and Adam's update of φ.

    Args:
        rule: A `Rule`.
        phi: Its meta-parameters at the start.
        parameters: List of arrays, those of the optimizee at the start.
        data: Pair of arrays, images and labels.
        steps: Integer. Inner steps.

    Returns:
        Function without arguments that returns the meta-loss.
    """

    @jax.jit
    def step(phi, moments, data, parameters):
        def sample(step):
            key = jax.random.fold_in(jax.random.key(0), step)
            rows = jax.random.randint(key, [BATCH_SIZE], 0, EXAMPLES)
            return data[0][rows], data[1][rows]

        loss, gradient = jax.value_and_grad(meta_loss)(
            phi, rule, parameters, sample, steps
        )
        return loss, *_adam(phi, gradient, moments)

    zeros = jax.tree.map(jnp.zeros_like, phi)
    state = (phi, (zeros, zeros, jnp.zeros(())))
    data, parameters = jax.tree.map(jnp.asarray, (data, parameters))

    def call():
        nonlocal state
        loss, *state = step(*state, data, parameters)
        return loss

    return call


def _loss(parameters, batch):
    """Cross-entropy of a perceptron with sigmoids."""
    x, y = batch
    *hidden, kernel, bias = parameters
    for layer in range(0, len(hidden), 2):
        x = jax.nn.sigmoid(x @ hidden[layer] + hidden[layer + 1])
    logits = jax.nn.log_softmax(x @ kernel + bias)
    return -jnp.mean(jnp.take_along_axis(logits, y[:, None], 1))


def _lstm(phi, gradient, cells):
    *layers, output_kernel, output_bias = phi
    magnitude = jnp.maximum(jnp.abs(gradient), jnp.exp(-P))
    sign = jnp.clip(gradient * jnp.exp(P), -1.0, 1.0)
    output = jnp.stack([jnp.log(magnitude) / P, sign], -1)
    next_cells = []
    for layer, (hidden, cell) in enumerate(cells):
        kernel, bias = layers[2 * layer : 2 * layer + 2]
        gates = jnp.concatenate([output, hidden], -1) @ kernel + bias
        entry, forget, candidate, exit_ = jnp.split(gates, 4, -1)
        entered = jax.nn.sigmoid(entry) * jnp.tanh(candidate)
        next_cell = jax.nn.sigmoid(forget) * cell + entered
        output = jax.nn.sigmoid(exit_) * jnp.tanh(next_cell)
        next_cells.append((output, next_cell))
    update = output @ output_kernel + output_bias
    return OUTPUT_SCALE * update[:, 0], next_cells


def _adam(phi, gradient, moments, rate=1e-3, epsilon=1e-7):
    first, second, step = moments
    step += 1.0
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(
        lambda m, g: 0.999 * m + 0.001 * g**2, second, gradient
    )
    rate *= jnp.sqrt(1.0 - 0.999**step) / (1.0 - 0.9**step)
    phi = jax.tree.map(
        lambda p, m, v: p - rate * m / (jnp.sqrt(v) + epsilon),
        phi,
        first,
        second,
    )
    return phi, (first, second, step)
