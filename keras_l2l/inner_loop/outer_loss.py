"""The outer loss: what the training of an optimizee is judged by.

The gradients that a rule sees are those of the inner loss, on training data.
The outer loss, which the meta-loss is made of, is the same, or that on held-out
data, or a weighted mean of both.
"""

import tensorflow as tf

from keras_l2l.inner_loop.episode import loss_dtype, unpack

# Held-out batches are counted from here, so that no seed is that of a batch
# of training data.
_FIRST_HELD_OUT = 2**30


def dense_gradients(tape, loss, parameters):
    """Gradients as tensors, zero where the loss does not depend on one.

    Args:
        tape: A `tf.GradientTape`.
        loss: Tensor.
        parameters: List of tensors. An embedding gives `IndexedSlices`.

    Returns:
        List of tensors shaped as `parameters`.
    """
    gradients = tape.gradient(
        loss,
        parameters,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def outer_loss(rule, task, carry, inner_loss, held_out):
    """The outer loss of an optimizee, whose model state stays as it is.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`.
        inner_loss: Scalar tensor, or `[K]`: the loss of the next step's batch.
        held_out: Float in [0, 1]. The weight of the held-out loss.

    Returns:
        Tensor like `inner_loss`: that itself if `held_out` is zero.
    """
    if not held_out:
        return inner_loss
    loss = tf.cast(
        task.held_out_loss(
            unpack(rule, task, carry.parameters),
            carry.model_state,
            task.sample_held_out_batch(
                tf.stack([carry.seed, carry.step + _FIRST_HELD_OUT], -1)
            ),
        ),
        loss_dtype(carry),
    )
    if held_out == 1.0:
        return loss
    return (1.0 - held_out) * inner_loss + held_out * loss


def outer_loss_and_gradients(rule, task, carry, inner, held_out):
    """The same, with its gradients.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`.
        inner: Tuple `(loss, gradients)` of the next step's batch.
        held_out: Float in [0, 1]. The weight of the held-out loss.

    Returns:
        Tuple `(loss, gradients)`: `inner` itself if `held_out` is zero.
    """
    if not held_out:
        return inner
    with tf.GradientTape() as tape:
        tape.watch(carry.parameters)
        loss = outer_loss(rule, task, carry, tf.zeros_like(inner[0]), held_out)
    gradients = dense_gradients(tape, loss, carry.parameters)
    if held_out == 1.0:
        return loss, gradients
    # The part of the training data has its gradients already.
    return (1.0 - held_out) * inner[0] + loss, [
        (1.0 - held_out) * one + other
        for one, other in zip(inner[1], gradients)
    ]
