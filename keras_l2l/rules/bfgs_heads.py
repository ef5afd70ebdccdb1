"""Heads of NTM-BFGS that read and write what BFGS does."""

from keras import ops

from keras_l2l.rules import preprocessing
from keras_l2l.rules.external_memory import SharedState
from keras_l2l.rules.secant_update import SecantPair, norm

# How many times as long as the last step a step may be.
_GROWTH = 10.0
# The largest logarithm that enters the network or an exponential.
_LARGEST_LOGARITHM = 10.0
_TINY = 1e-30


class BFGSHeads(SharedState):
    """Heads whose vectors are those of BFGS, weighed by a network.

    The memory is an inverse Hessian `H`. A step `s` and the change `y` of the
    gradient along it are written to it as in BFGS, and `u = μ s - η H g` is
    the update, at most ten times as long as the last one.

    The network sees the direction of the gradient, of `s` and of `y`, and four
    numbers that all coordinates share: the cosine of `s` and `y`,
    log(yᵀHy / sᵀy), and the logarithm of the norm of the gradient over that
    of its average and over that of the first one. The means of its outputs
    over all coordinates make six coefficients:

    - the weight of the pair that is written;
    - its mixing φ in Broyden's class, see `SecantPair.vectors`;
    - its damping, which adds to its curvature where gradients are noisy;
    - the share of the newest point in moving averages of the parameters and
      of the gradient: from the averages `s` and `y` are counted, and `g` is
      that of the gradient;
    - the step size η;
    - the momentum μ.

    Outputs of zero make them 1, 1, 0, 1, 1 and 0: BFGS without a line search.

    Args:
        memory: A `FullSecantMemory` or a `LowRankSecantMemory`.
    """

    extra_inputs = 6
    outputs = 6

    def __init__(self, memory):
        self._memory = memory

    def initial_local(self, count, dtype):
        zeros = ops.zeros((count,), dtype)
        return {
            "average_parameter": zeros,
            "average_gradient": zeros,
            **self._memory.initial_local(count, dtype),
        }

    def initial_shared(self, count, dtype):
        zero = ops.zeros((), dtype)
        return {
            "step": zero,
            "first_norm": zero,
            "last_length": zero,
            **self._memory.initial_shared(count, dtype),
        }

    def __call__(self, run_network, gradient, parameter, state, shared):
        """Computes one step of `[N]` coordinates.

        Args:
            run_network: Function from a gradient `[N]`, a hidden state and
                further inputs `[N, 6]` to outputs `[N, 6]` and the next
                hidden state of the network.
            gradient: Tensor `[N]`.
            parameter: Tensor `[N]`.
            state: Dict with the entries of `initial_local` and the hidden
                state of the network.
            shared: Dict with the entries of `initial_shared`.

        Returns:
            Tuple `(update, state, shared)`.
        """
        shared = self._begun(gradient, shared)
        # At the first step there is no average to count from.
        has_average = ops.cast(shared["step"] > 0.0, gradient.dtype)
        step = has_average * (parameter - state["average_parameter"])
        change = has_average * (gradient - state["average_gradient"])
        pair = SecantPair(step, change)
        memory = self._memory.open(state, shared, pair)
        inputs = _network_inputs(
            gradient, gradient - change, pair, memory, shared["first_norm"]
        )
        outputs, network_state = run_network(
            _direction(gradient), state, inputs
        )
        weight, mixing, damping, share, size, momentum = ops.unstack(
            ops.mean(outputs, axis=0)
        )
        local, written = memory.write(
            pair.damped(ops.tanh(damping)), _exp(mixing), _around_one(weight)
        )
        # What is left of the step and of the change after the averaging.
        rest = 1.0 - _around_one(share)
        average_gradient = gradient - rest * change
        update = ops.tanh(momentum) * step
        update -= _exp(size) * memory.read(average_gradient)
        update, length = _limited(update, shared["last_length"])
        next_state = {
            **network_state,
            **local,
            "average_parameter": parameter - rest * step,
            "average_gradient": average_gradient,
        }
        next_shared = {
            "step": shared["step"] + 1.0,
            "first_norm": shared["first_norm"],
            "last_length": length,
            **written,
        }
        return update, next_state, next_shared

    @staticmethod
    def _begun(gradient, shared):
        """The shared state, with the norm of the first gradient."""
        first_norm = ops.where(
            shared["step"] == 0.0, norm(gradient), shared["first_norm"]
        )
        return {**shared, "first_norm": first_norm}


def _network_inputs(gradient, average_gradient, pair, memory, first_norm):
    """Tensor `[N, 6]`, beside the gradient itself."""
    length = norm(gradient)
    numbers = [
        pair.cosine,
        _log(pair.ratio(memory.read(pair.change))),
        _log((length + _TINY) / (norm(average_gradient) + _TINY)),
        _log((length + _TINY) / (first_norm + _TINY)),
    ]
    vectors = ops.stack([_direction(pair.step), _direction(pair.change)], -1)
    zeros = ops.zeros_like(gradient)[:, None]
    return ops.concatenate([vectors, zeros + ops.stack(numbers)], -1)


def _direction(vector):
    """A vector over its root mean square, zero if it is zero."""
    size = norm(vector)
    size = ops.where(size > 0.0, size, ops.ones_like(size))
    count = ops.cast(ops.shape(vector)[0], vector.dtype)
    return vector / size * ops.sqrt(count)


def _limited(update, last_length):
    """An update that is not too long after the last one, and its length."""
    update = preprocessing.finite(update)
    length = norm(update)
    is_long = ops.logical_and(last_length > 0.0, length > _GROWTH * last_length)
    divisor = ops.where(is_long, length, ops.ones_like(length))
    limit = ops.where(is_long, _GROWTH * last_length, ops.ones_like(length))
    factor = limit / divisor
    return factor * update, factor * length


def _log(ratio):
    """The logarithm of a number above zero, as an input of the network."""
    bounds = -_LARGEST_LOGARITHM, _LARGEST_LOGARITHM
    return ops.clip(ops.log(ratio), *bounds) / _LARGEST_LOGARITHM


def _exp(output):
    return ops.exp(ops.clip(output, -_LARGEST_LOGARITHM, _LARGEST_LOGARITHM))


def _around_one(output):
    """A coefficient in (0, 2), one for an output of zero."""
    return 2.0 * ops.sigmoid(output)
