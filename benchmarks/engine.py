"""What meta-training and updates cost: ratios, side by side in one run.

    python benchmarks/engine.py
    python benchmarks/engine.py --only meta-step update --json
    python benchmarks/engine.py --all --threads 2

The rows of a section take turns, so that a machine whose speed drifts favours
none, and each figure is the median of its turns.
"""

import argparse
import json

import processes
from cell import cell_section
from general import general_section
from memory import memory_section
from optimizees import optimizees_section
from outer_step import (
    allocator_section,
    gpu_section,
    meta_step_section,
    scaling_section,
    threads_section,
)
from rich.console import Console
from rich.table import Table
from share import share_section
from updates import update_section

SECTIONS = {
    "meta-step": meta_step_section,
    "threads": threads_section,
    "allocator": allocator_section,
    "cell": cell_section,
    "update": update_section,
    "general": general_section,
    "memory": memory_section,
    "scaling": scaling_section,
    "optimizees": optimizees_section,
    "share": share_section,
    "gpu": gpu_section,
}
SLOW = ("memory", "share")
# Key of a record → head of its column and format.
COLUMNS = {
    "coordinates": ("coordinates", ",d"),
    "unroll": ("unroll", "d"),
    "optimizees": ("optimizees", "d"),
    "first_call_seconds": ("first call, s", ".1f"),
    "page_faults": ("page faults / inner step", ",.0f"),
    "milliseconds_per_inner_step": ("ms / inner step", ".2f"),
    "relative_to_tape": ("relative", ".2f"),
    "relative_to_malloc": ("relative", ".2f"),
    "milliseconds_one_thread": ("1 thread, ms / inner step", ".2f"),
    "milliseconds_two_threads": ("2 threads", ".2f"),
    "speedup": ("speedup", ".2f"),
    "nanoseconds_per_coordinate": ("ns each", ".1f"),
    "forward_nanoseconds": ("forward, ns / coordinate", ".0f"),
    "forward_relative": ("relative", ".2f"),
    "tape_nanoseconds": ("tape, ns / coordinate", ".0f"),
    "tape_relative": ("relative", ".2f"),
    "relative_to_products": ("to products", ".2f"),
    "relative_to_keras_adam": ("to Keras Adam", ".1f"),
    "relative_to_first_row": ("relative", ".2f"),
    "peak_megabytes": ("MB peak", ",.0f"),
    "process_megabytes": ("before", ",.0f"),
    "built_megabytes": ("before the first update", ",.0f"),
    "held_megabytes": ("held", ",.0f"),
    "beside_megabytes": ("beside", ",.0f"),
    "bytes_beside_per_coordinate": ("B each", ",.0f"),
    "inner_steps_per_second": ("inner steps / s", ",.0f"),
    "validation_loss": ("validation loss", ".4f"),
    "standard_error": ("standard error", ".4f"),
    "seconds": ("seconds", ".1f"),
    "relative_seconds": ("relative", ".2f"),
    "relative_to_one": ("relative", ".2f"),
}


def show(console, section, records):
    """Prints the table of a section, and below it what there is to say."""
    measured = [r for r in records if not COLUMNS.keys().isdisjoint(r)]
    keys = [k for k in COLUMNS if any(k in record for record in measured)]
    console.print(f"\n{section}: {SECTIONS[section].__doc__}", style="bold")
    if measured:
        table = Table()
        table.add_column("", no_wrap=True)
        columns = [_column(measured, key) for key in keys]
        for key, cells in zip(keys, columns):
            # Heads are broken between words, figures never.
            words = [*COLUMNS[key][0].split(), *cells]
            table.add_column(
                COLUMNS[key][0],
                justify="right",
                min_width=max(map(len, words)),
            )
        for record, *cells in zip(measured, *columns):
            table.add_row(record["row"], *cells)
        console.print(table)
    for record in records:
        if "note" in record:
            console.print(f"{record['row']}: {record['note']}", markup=False)


def _column(records, key):
    """The cells of a column, empty where a record has no such figure."""
    form = COLUMNS[key][1]
    return [format(r[key], form) if key in r else "" for r in records]


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME")
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"the slow section, too ({', '.join(SLOW)}), and the million "
        "coordinates of scaling",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument(
        "--repeats",
        type=int,
        default=15,
        help="turns of each row; where rows are long, a part of it",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not 1 <= arguments.threads <= len(processes.CORES):
        parser.error(
            f"--threads must be in the range [1, {len(processes.CORES)}], "
            f"the cores there are. Received: {arguments.threads}"
        )
    return arguments


def main():
    arguments = parse_arguments()
    processes.set_threads(arguments.threads)
    processes.set_device(arguments.device)
    sections = arguments.only or [
        name for name in SECTIONS if arguments.all or name not in SLOW
    ]
    console, records = Console(), []
    for name in sections:
        found = SECTIONS[name](arguments)
        if not arguments.json:
            show(console, name, found)
        records += [{"section": name} | record for record in found]
    if arguments.json:
        print(json.dumps(records, indent=2))


if __name__ == "__main__":
    main()
