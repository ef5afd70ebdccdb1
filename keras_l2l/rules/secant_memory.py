"""Memories of NTM-BFGS that hold the inverse Hessian of secant pairs."""

from keras import ops

from keras_l2l.rules.external_memory import SharedState
from keras_l2l.rules.secant_update import SecantPair


class FullSecantMemory(SharedState):
    """The inverse Hessian `H` as a matrix `[n, n]`, at first the identity.

    The first valid pair makes it sᵀy / yᵀy times the identity.

    Args:
        matrix: A `FullMemory`, which holds it.
    """

    def __init__(self, matrix):
        self._matrix = matrix

    def initial_shared(self, count, dtype):
        return {
            "is_written": ops.zeros((), dtype),
            **self._matrix.initial_shared(count, dtype),
        }

    def open(self, state, shared, pair):
        """Returns the memory as it is before a pair is written to it.

        Args:
            state: Dict with the entries of `initial_local`.
            shared: Dict with those of `initial_shared`.
            pair: A `SecantPair`, which sets the scale.

        Returns:
            An object with the methods `read(vector)`, which returns `H` times
            a vector, and `write(pair, mixing, weight)`, which returns the
            next state as a tuple `(local, shared)`.
        """
        return _OpenMatrix(self._matrix, shared, pair)


class _OpenMatrix:
    def __init__(self, matrix, shared, pair):
        self._matrix = matrix
        written = shared["is_written"]
        is_first = ops.logical_and(pair.is_valid, written == 0.0)
        factor = ops.where(is_first, pair.scale, ops.ones_like(pair.scale))
        self._shared = {"memory": factor * shared["memory"]}
        self._is_written = ops.where(
            pair.is_valid, ops.ones_like(written), written
        )

    def read(self, vector):
        return self._matrix.read({}, self._shared, vector[:, None])[:, 0]

    def write(self, pair, mixing, weight):
        left, right = pair.vectors(self.read(pair.change), mixing, weight)
        _, self._shared = self._matrix.write({}, self._shared, left, right)
        return {}, {"is_written": self._is_written, **self._shared}


class LowRankSecantMemory(SharedState):
    """The last pairs `(s, y)`, from which `H` is made at each step.

    As in L-BFGS: it begins as sᵀy / yᵀy of the newest valid pair times the
    identity, so that no dropped pair is left in it. A step costs
    `O(pairs² n)`, the memory is `O(pairs n)`. The methods are those of
    `FullSecantMemory`.

    Args:
        pairs: Integer. The largest number of pairs.
    """

    def __init__(self, pairs):
        self._pairs = pairs

    def initial_local(self, count, dtype):
        zeros = ops.zeros((count, self._pairs), dtype)
        return {"steps": zeros, "changes": zeros}

    def initial_shared(self, count, dtype):
        zeros = ops.zeros((self._pairs,), dtype)
        return {
            "mixings": zeros,
            "weights": zeros,
            "scale": ops.ones((), dtype),
        }

    def open(self, state, shared, pair):
        return _OpenPairs(self._pairs, state, shared, pair)


class _OpenPairs:
    def __init__(self, pairs, state, shared, pair):
        self._state, self._shared = state, shared
        self._scale = ops.where(pair.is_valid, pair.scale, shared["scale"])
        self._products = []  # Tuples of `[n, 2]`, of which H is the sum.
        # A valid pair will push out the oldest one.
        is_kept = ops.logical_not(pair.is_valid)
        for index in range(pairs):
            weight = shared["weights"][index]
            if index == 0:
                weight = ops.where(is_kept, weight, ops.zeros_like(weight))
            old = _pair_of(state, index)
            self._add(old, shared["mixings"][index], weight)

    def read(self, vector):
        product = self._scale * vector[:, None]
        for left, right in self._products:
            inner = ops.matmul(ops.transpose(right), vector[:, None])
            product += ops.matmul(left, inner)
        return product[:, 0]

    def write(self, pair, mixing, weight):
        self._add(pair, mixing, weight)

        def push(old, new):
            pushed = ops.concatenate([old[..., 1:], new[..., None]], -1)
            return ops.where(pair.is_valid, pushed, old)

        state, shared = self._state, self._shared
        return {
            "steps": push(state["steps"], pair.step),
            "changes": push(state["changes"], pair.change),
        }, {
            "mixings": push(shared["mixings"], mixing),
            "weights": push(shared["weights"], weight),
            "scale": self._scale,
        }

    def _add(self, pair, mixing, weight):
        product = self.read(pair.change)
        self._products.append(pair.vectors(product, mixing, weight))


def _pair_of(state, index):
    return SecantPair(state["steps"][:, index], state["changes"][:, index])
