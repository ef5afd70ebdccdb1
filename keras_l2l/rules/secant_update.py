"""Secant updates of an inverse Hessian: Broyden's class, with BFGS in it."""

from keras import ops

# Below this cosine of step and change of the gradient there is no positive
# curvature to learn from, only rounding and noise.
_SMALLEST_COSINE = 1e-4
_LARGEST_SLOPE = 1e15
_TINY = 1e-30


class SecantPair:
    """A step `s`, and the change `y` of the gradient along it.

    Both are scaled so that the largest entry of `s` is one: no update of the
    inverse Hessian `H` depends on their common scale, and products of small
    steps underflow. A pair is valid if it shows a positive curvature.

    Args:
        step: Tensor `[n]`, `s`.
        change: Tensor `[n]`, `y`.
    """

    def __init__(self, step, change):
        size = ops.max(ops.abs(step))
        size = ops.where(size > _TINY, size, ops.ones_like(size))
        self.step = step / size
        self.change = ops.clip(change / size, -_LARGEST_SLOPE, _LARGEST_SLOPE)
        curvature = ops.sum(self.step * self.change)
        lengths = norm(self.step) * norm(self.change)
        self.cosine = curvature / (lengths + _TINY)
        self.is_valid = self.cosine > _SMALLEST_COSINE
        self._curvature = self._positive(curvature)  # sᵀy
        square = self._positive(ops.sum(ops.square(self.change)))
        # sᵀy / yᵀy, the size of an inverse Hessian that fits the pair.
        self.scale = self._curvature / square

    def ratio(self, product):
        """Returns yᵀHy / sᵀy: by how much `H` is too large along `y`.

        Args:
            product: Tensor `[n]`, `Hy`.

        Returns:
            A scalar, one for an invalid pair.
        """
        return self._quadratic_form(product) / self._curvature

    def vectors(self, product, mixing, weight):
        """Returns what to add to `H`, as two outer products.

        With `v = s / sᵀy - Hy / yᵀHy`,

            H + w (s sᵀ / sᵀy - Hy (Hy)ᵀ / yᵀHy + φ (yᵀHy) v vᵀ)

        is the update of Broyden's class: BFGS for φ = 1, DFP for φ = 0, SR1
        for φ = 1 / (1 - yᵀHy / sᵀy).

        Args:
            product: Tensor `[n]`, `Hy`.
            mixing: Scalar tensor, φ.
            weight: Scalar tensor, w. An invalid pair has the weight zero.

        Returns:
            Tuple `(left, right)` of tensors `[n, 2]`, for `H + left rightᵀ`.
        """
        form = self._quadratic_form(product)
        weight = ops.where(self.is_valid, weight, ops.zeros_like(weight))
        of_step = (1.0 + mixing * form / self._curvature) / self._curvature
        of_both = -mixing / self._curvature
        of_product = (mixing - 1.0) / form
        right = [
            of_step * self.step + of_both * product,
            of_both * self.step + of_product * product,
        ]
        return (
            ops.stack([self.step, product], -1),
            weight * ops.stack(right, -1),
        )

    def damped(self, damping):
        """Returns the pair with a larger curvature along the step.

        Args:
            damping: Scalar tensor, roughly what is added to the cosine.

        Returns:
            A `SecantPair`.
        """
        slope = norm(self.change) / (norm(self.step) + _TINY)
        return SecantPair(self.step, self.change + damping * slope * self.step)

    def _quadratic_form(self, product):
        return self._positive(ops.sum(self.change * product))  # yᵀHy

    def _positive(self, value):
        """A value of a valid pair, else one, by which one can divide."""
        is_positive = ops.logical_and(self.is_valid, value > _TINY)
        return ops.where(is_positive, value, ops.ones_like(value))


def norm(vector):
    """Returns the Euclidean norm, whose squares neither over- nor underflow.

    Args:
        vector: Tensor `[n]`.

    Returns:
        A scalar, whose derivative is zero where the vector is.
    """
    size = ops.stop_gradient(ops.max(ops.abs(vector)))
    size = ops.where(size > 0.0, size, ops.ones_like(size))
    square = ops.sum(ops.square(vector / size))
    is_zero = square == 0.0
    root = ops.sqrt(ops.where(is_zero, ops.ones_like(square), square))
    return size * ops.where(is_zero, ops.zeros_like(square), root)
