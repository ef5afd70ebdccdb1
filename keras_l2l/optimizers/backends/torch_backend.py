"""PyTorch: variables are written in place."""

import torch
from keras import ops

from keras_l2l.optimizers.backends.base import Backend


class TorchBackend(Backend):
    """A step that runs at once, outside of automatic differentiation."""

    def read(self, variable):
        return ops.copy(variable)  # An assignment would change what was read.

    def no_gradient(self):
        # Nor would a step of a custom loop end: meta-parameters are trainable.
        return torch.no_grad()


BACKEND = TorchBackend()
