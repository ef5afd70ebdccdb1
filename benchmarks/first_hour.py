"""From `pip install` to a plot of one's own data, with the built wheel alone.

    python benchmarks/first_hour.py            # builds the wheel; minutes
    python benchmarks/first_hour.py dist/*.whl # takes this one

In a new directory and a new virtual environment, which has nothing of this
checkout, it runs what a person would: an installation and two comparisons with
tuned optimizers, on a table and on arrays of theirs. Prints the seconds of each
command and the size of the environment, with the packages that take most of it.
The packages come from wherever `pip` has them from, its cache included.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import venv

import numpy as np

SHORT = "--steps 200 --seeds 5 --sweep-seeds 1"
LARGEST = 8  # packages to print

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("wheel", nargs="?", type=pathlib.Path)
arguments = parser.parse_args()


def write_data(directory):
    """A table of flats and arrays of points, as a person may have them."""
    generator = np.random.default_rng(0)
    area, rooms = generator.uniform(20, 120, 600), generator.integers(1, 6, 600)
    city = generator.choice(["Ulm", "Bonn", "Trier"], 600)
    price = area * (12 + 3 * (city == "Bonn")) - 40 * rooms
    price += generator.normal(0, 40, 600)
    lines = [
        f"{a:.1f},{r},{c},{p:.0f}"
        for a, r, c, p in zip(area, rooms, city, price)
    ]
    text = "\n".join(["area,rooms,city,price", *lines]) + "\n"
    (directory / "flats.csv").write_text(text)
    x = generator.normal(size=(1000, 8)).astype("float32")
    np.savez(
        directory / "points.npz", x=x, y=(x[:, 0] * x[:, 1] > 0).astype("int64")
    )


def run(command, directory):
    """Runs a line of a shell; prints it, its seconds and its last lines."""
    print(f"$ {command}", flush=True)
    begin = time.perf_counter()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join(
        [str(directory / "venv" / "bin"), environment["PATH"]]
    )
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - begin
    for line in done.stdout.splitlines()[-12:]:
        print(f"    {line}")
    if done.returncode:
        sys.exit(f"{done.stderr}\nfailed with status {done.returncode}")
    print(f"  {seconds:.0f} s", flush=True)
    return seconds


def size_of(directory):
    return sum(
        file.stat().st_size for file in directory.rglob("*") if file.is_file()
    )


def print_sizes(environment):
    (packages,) = environment.glob("lib/python*/site-packages")
    sizes = {path.name: size_of(path) for path in packages.iterdir()}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:LARGEST]
    print(f"environment: {size_of(environment) / 1e6:,.0f} MB, of it")
    for name in largest:
        print(f"  {sizes[name] / 1e6:8,.0f} MB {name}")


with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name)
    wheel = arguments.wheel
    if wheel is None:
        subprocess.run(
            [
                *(sys.executable, "-m", "build", "--wheel"),
                *("--outdir", directory / "dist"),
                pathlib.Path(__file__).parents[1],
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (wheel,) = (directory / "dist").glob("*.whl")
    wheel = wheel.resolve()
    write_data(directory)
    venv.create(directory / "venv", with_pip=True)
    bare = size_of(directory / "venv")
    seconds = [
        run(f"pip install --quiet '{wheel}[plots]'", directory),
        run(
            f"keras-l2l compare --data flats.csv --output flats {SHORT}",
            directory,
        ),
        run(
            f"keras-l2l compare --data points.npz --output points {SHORT}",
            directory,
        ),
    ]
    for output in ("flats", "points"):
        plot = directory / output / "learning_curves.png"
        print(f"{output}/{plot.name}: {plot.stat().st_size / 1e3:.0f} kB")
    print(f"three commands: {sum(seconds):.0f} s")
    print(f"wheel: {wheel.stat().st_size / 1e6:.1f} MB")
    print(f"empty environment: {bare / 1e6:.0f} MB")
    print_sizes(directory / "venv")
