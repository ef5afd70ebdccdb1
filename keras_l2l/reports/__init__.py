"""Results as tables, figures and a page."""

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
from keras_l2l.reports.training_monitor import TrainingMonitor, plot_training
from keras_l2l.reports.update_plots import (
    plot_proposed_updates,
    plot_update_history,
)

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
