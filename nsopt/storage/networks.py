"""The table of a compression's networks, as text."""

from collections.abc import Callable, Sequence

from nsopt.scaling.metric import format_ms, short_number
from nsopt.storage.schema import DENSE, NetworkRow


def format_networks(rows: Sequence[NetworkRow], score_name: str) -> list[dict[str, str]]:
    """Return the rows of a table, all values as text, the trained network first.

    In brackets are points of the score, and shares of costs, compared with the trained network.
    Columns without any value are left out.

    Args:
        score_name: of the validation; empty for the accuracy of images.
    """
    whole = rows[0]
    table = [
        {
            "budget": row.budget,
            "widths by": "" if row.widths_by == DENSE else row.widths_by,
            "agreement %": "" if row.agreement is None else f"{row.agreement:.1f}",
            **_format_scores(row, whole, score_name),
            "ms": _compare(format_ms, row.latency_ms, whole.latency_ms),
            "params": _compare(short_number, row.params, whole.params),
            "MACs": _compare(short_number, row.macs, whole.macs),
            "trained": "" if row.epochs == row.planned else f"{row.epochs} of {row.planned} epochs",
            "files": row.files,
        }
        for row in rows
    ]
    filled = [name for name in table[0] if any(row[name] for row in table)]
    return [{name: row[name] for name in filled} for row in table]


def _format_scores(row: NetworkRow, whole: NetworkRow, score_name: str) -> dict[str, str]:
    if row.test_score is None or whole.test_score is None:
        return {score_name or "val %": _show_change(row.score, whole.score)}
    return {
        "test" if score_name else "test %": _show_change(row.test_score, whole.test_score),
        score_name or "val %": f"{row.score:.4g}"
        if row.error is None
        else f"{row.score:.2f} ±{row.error:.2g}",
    }


def _show_change(value: float, original: float) -> str:
    shown = f"{value:.4g}"
    return shown if shown == f"{original:.4g}" else f"{shown} ({value - original:+.2g})"


def _compare(show: Callable[[float], str], cost: float | None, whole: float | None) -> str:
    """Return a cost, and in brackets its share of another one if it differs."""
    if cost is None:
        return ""
    return show(cost) if cost == whole or whole is None else f"{show(cost)} ({cost / whole:.2f}x)"
