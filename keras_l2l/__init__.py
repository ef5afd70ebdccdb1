"""Learned optimizers for Keras.

```python
import keras_l2l

model.compile(optimizer=keras_l2l.L2LOptimizer(), loss=...)
```
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_l2l import presets, rules
from keras_l2l.optimizers import L2LOptimizer
from keras_l2l.rules import load_rule

if TYPE_CHECKING:
    from keras_l2l import tasks
    from keras_l2l.meta_training import MetaTrainer

__all__ = [
    "L2LOptimizer",
    "MetaTrainer",
    "load_rule",
    "presets",
    "rules",
    "tasks",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports names that only meta-training needs at their first use."""
    if name == "MetaTrainer":
        return importlib.import_module("keras_l2l.meta_training").MetaTrainer
    if name == "tasks":
        return importlib.import_module("keras_l2l.tasks")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "MetaTrainer", "tasks"]
