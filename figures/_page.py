"""A self-contained HTML page: nothing is fetched, and all text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import matplotlib
from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #222; background: #fff;
       max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.status { color: #555; margin-top: .2rem; }
img { display: block; max-width: 100%; height: auto; margin: .5rem auto; }
figure { margin: 1rem 0; } figcaption { color: #444; font-size: .9rem; }
pre { background: #f4f4f4; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere;
      font: .85rem/1.45 "DejaVu Sans Mono", monospace; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
table.shaded td { text-align: center; padding: .15rem .3rem; min-width: 1.6rem;
                  border: 1px solid #ddd; font-variant-numeric: tabular-nums; }
table.shaded th { font-weight: normal; border: 0; padding: .15rem .5rem .15rem 0; white-space: nowrap; }
table.shaded tr:first-child th { vertical-align: bottom; text-align: center; padding: .3rem; }
table.shaded tr:first-child th:first-child { text-align: left; color: #666; padding-left: 0; }
table.shaded th.upright span { writing-mode: vertical-rl; transform: rotate(180deg); }
ul.pictures { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .8rem; }
ul.pictures li { width: 9rem; font-size: .8rem; color: #444; overflow-wrap: anywhere; }
ul.pictures img { width: 96px; image-rendering: pixelated; margin: 0 0 .3rem; }
.columns { columns: 2 20rem; } .columns table { width: 100%; } .columns .wide { overflow: visible; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } img { max-height: 22cm; } }
"""


def document(title: str, about: str, sections: Iterable[tuple[str, str]]) -> str:
    """Return a page of sections (heading, HTML); those without content are left out."""
    body = "\n".join(f"<h2>{escape(head)}</h2>\n{content}" for head, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="status">{escape(about)}</p>\n'
        f"{body}\n</body>\n</html>\n"
    )


def table(rows: Iterable[Sequence[str]], *, header: bool = False, numbers: bool = False) -> str:
    """Return a table of texts; the first of a row is its head."""
    lines = []
    for i, row in enumerate(rows):
        tag = "th" if header and i == 0 else "td"
        kind = ' class="number"' if numbers else ""
        first, *others = map(escape, row)
        rest = "".join(f"<{tag}{kind}>{text}</{tag}>" for text in others)
        lines.append(f'<tr><th scope="row">{first}</th>{rest}</tr>')
    return f'<div class="wide"><table>\n{chr(10).join(lines)}\n</table></div>'


def shaded(
    corner: str,
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[Sequence[tuple[str, float]]],
) -> str:
    """Return a table whose cells, (text, share), are the darker the larger their share, 0 to 1, is."""
    upright = ' class="upright"' if max(map(len, columns), default=0) > 4 else ""
    heads = "".join(f"<th{upright}><span>{escape(name)}</span></th>" for name in columns)
    lines = [f'<tr><th scope="row">{escape(corner)}</th>{heads}</tr>']
    for name, row in zip(rows, cells, strict=True):
        found = []
        for text, share in row:
            ink = "#fff" if share > 0.55 else "#222"
            style = f"background:rgba(0,114,178,{share:.3f});color:{ink}"
            found.append(f'<td style="{style}">{escape(text)}</td>')
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(found)}</tr>')
    return f'<div class="wide"><table class="shaded">\n{chr(10).join(lines)}\n</table></div>'


def gallery(items: Iterable[tuple[bytes, str]]) -> str:
    """Return PNG files as small pictures in the page, side by side, each with its text."""
    entries = [
        f'<li><img src="data:image/png;base64,{base64.b64encode(png).decode()}" '
        f'alt="{escape(text)}">{escape(text).replace(" %", "&nbsp;%")}</li>'
        for png, text in items
    ]
    return f'<ul class="pictures">{chr(10).join(entries)}</ul>'


def picture(figure: Figure, title: str, caption: str) -> str:
    """Return a figure as an image inside the page, its letters as outlines: no font need be there."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "isnas"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    content = base64.b64encode(buffer.getvalue()).decode()
    width = round(119 * figure.get_figwidth())
    return (
        f'<figure><img src="data:image/svg+xml;base64,{content}" alt="{escape(title)}" '
        f'width="{width}"><figcaption>{escape(caption)}</figcaption></figure>'
    )
