"""Tables of results in Jupyter notebooks."""

from collections.abc import Mapping, Sequence
from html import escape


def make_html_table(rows: Sequence[Mapping[str, object]], caption: str) -> str:
    """Return rows of the same columns as an HTML table, everything escaped; a wide one scrolls."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row.values()) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<p>{escape(caption)}</p><div style="overflow-x: auto">{table}</div>'
