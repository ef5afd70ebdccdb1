"""Runs the blocks of `get_started.md` and keeps what they print.

    python docs/make_output.py

Each block of Python or shell that is followed by an included file of `output/`
is run, in order, in one directory; minutes.
"""

import contextlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

DOCS = pathlib.Path(__file__).resolve().parent
BLOCK = re.compile(
    r"```(python|shell)\n((?:(?!```).)*)```\n+```{literalinclude} output/(\S+)",
    re.DOTALL,
)


def run(kind: str, code: str) -> str:
    if kind == "python":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        return printed.getvalue()
    return subprocess.run(
        ["bash", "-ec", code], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


text = (DOCS / "get_started.md").read_text(encoding="utf-8")
with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    for kind, code, file in BLOCK.findall(text):
        output = run(kind, code)
        (DOCS / "output" / file).write_text(output, encoding="utf-8")
        print(f"{file}:\n{output}")
        if file == "compare.txt":
            curves = "l2l_compare/learning_curves.png"
            shutil.copy(curves, DOCS / "output" / "compare.png")
    os.chdir(DOCS)
