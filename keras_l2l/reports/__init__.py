"""Results as tables, figures and a page."""

import importlib
from typing import TYPE_CHECKING, Any

from keras_l2l import checks

if TYPE_CHECKING:
    from keras_l2l.reports.benchmark_page import (
        benchmark_document,
        benchmark_tables,
        write_report,
    )
    from keras_l2l.reports.benchmark_plots import plot_profile, plot_task
    from keras_l2l.reports.meta_training_page import write_meta_training_report
    from keras_l2l.reports.meta_training_plots import plot_meta_training
    from keras_l2l.reports.plots import (
        plot_comparisons,
        plot_final_losses,
        plot_learning_curves,
    )
    from keras_l2l.reports.tables import (
        comparison_table,
        detail_table,
        preset_table,
    )
    from keras_l2l.reports.tensorboard import MetaTrainingMonitor
    from keras_l2l.reports.training_monitor import TrainingMonitor
    from keras_l2l.reports.training_plots import plot_training
    from keras_l2l.reports.update_plots import (
        plot_proposed_updates,
        plot_update_history,
    )

# Where the public names are, which are imported at their first use: figures
# need matplotlib, which is an extra.
_MODULES = {
    "MetaTrainingMonitor": "tensorboard",
    "TrainingMonitor": "training_monitor",
    "benchmark_document": "benchmark_page",
    "benchmark_tables": "benchmark_page",
    "comparison_table": "tables",
    "detail_table": "tables",
    "plot_comparisons": "plots",
    "plot_final_losses": "plots",
    "plot_learning_curves": "plots",
    "plot_meta_training": "meta_training_plots",
    "plot_profile": "benchmark_plots",
    "plot_proposed_updates": "update_plots",
    "plot_task": "benchmark_plots",
    "plot_training": "training_plots",
    "plot_update_history": "update_plots",
    "preset_table": "tables",
    "write_meta_training_report": "meta_training_page",
    "write_report": "benchmark_page",
}
_WITHOUT_FIGURES = ("tables", "tensorboard", "training_monitor")

__all__ = [
    "MetaTrainingMonitor",
    "TrainingMonitor",
    "benchmark_document",
    "benchmark_tables",
    "comparison_table",
    "detail_table",
    "plot_comparisons",
    "plot_final_losses",
    "plot_learning_curves",
    "plot_meta_training",
    "plot_profile",
    "plot_proposed_updates",
    "plot_task",
    "plot_training",
    "plot_update_history",
    "preset_table",
    "write_meta_training_report",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if module not in _WITHOUT_FIGURES:
        needs_figures()
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def needs_figures() -> None:
    """Raises an `ImportError` if there is nothing that draws figures."""
    checks.import_extra("matplotlib", "plots", "A figure needs")
