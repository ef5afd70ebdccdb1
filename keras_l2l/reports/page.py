"""An HTML page that holds its figures, and loads nothing."""

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em;
  padding: 0 1em; }}
table {{ border-collapse: collapse; display: block; margin: 1em 0;
  overflow-x: auto; }}
td, th {{ padding: .15em .7em; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
th {{ border-bottom: 1px solid #888; }}
caption {{ text-align: left; font-style: italic; }}
tr.learned {{ font-weight: bold; }}
img {{ max-width: 100%; }}
pre {{ background: #f4f4f4; overflow: auto; padding: .5em 1em; }}
</style></head><body><h1>{title}</h1>
<p>{note}</p>{sections}</body></html>
"""


def page(title: str, note: str, sections: Sequence[str]) -> bytes:
    """Makes the page.

    Args:
        title: String, plain text.
        note: String, plain text, below the title.
        sections: Strings of HTML.

    Returns:
        Bytes, the content of the file.
    """
    return _PAGE.format(
        title=html.escape(title),
        note=html.escape(note),
        sections="".join(sections),
    ).encode()


def pixels(figure: Figure) -> bytes:
    """The content of a PNG file with the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def picture(name: str, content: bytes) -> str:
    """An image with the content of a PNG file.

    Args:
        name: String, plain text, what is read to those who do not see it.
        content: Bytes.

    Returns:
        String of HTML.
    """
    data = base64.b64encode(content).decode()
    return (
        f'<p><img alt="{html.escape(name)}" '
        f'src="data:image/png;base64,{data}"></p>'
    )


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    learned: str | None = None,
) -> str:
    """A table, of plain texts.

    Args:
        title: String, its caption.
        columns: Strings, the names of the columns.
        rows: Sequences of strings.
        learned: String. A row that begins with it stands out. Defaults to
            `None`.

    Returns:
        String of HTML.
    """
    names = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = [f"<caption>{html.escape(title)}</caption>", f"<tr>{names}</tr>"]
    for cells in rows:
        data = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        kind = ' class="learned"' if cells[0] == learned else ""
        lines.append(f"<tr{kind}>{data}</tr>")
    return f"<table>{''.join(lines)}</table>"
