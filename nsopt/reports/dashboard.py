"""Store notes and the report's figures in a comparison's storage, for optuna-dashboard."""

import html
import socket
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore

from nsopt.errors import NsoptError
from nsopt.methods.registry import method_label
from nsopt.reports.figures import draw_pareto, draw_widths
from nsopt.reports.results import Results
from nsopt.reports.tables import short_rows
from nsopt.reports.words import answer, warn_of_latencies
from nsopt.storage import schema
from nsopt.storage.opening import artifacts_beside, existing_storage, open_storage
from nsopt.storage.studies import load_studies


def publish(results: Results, url: str) -> None:
    """Save notes and figures of a comparison in its storage, at `url`, replacing older ones.

    Studies of methods get the answer, the table, the Pareto front and the widths.
    """
    from optuna_dashboard import save_note, save_plotly_graph_object  # noqa: PLC0415

    figures = {"pareto": draw_pareto(results), "widths": draw_widths(results)}
    outcomes = describe_outcomes(results)
    for method, study in load_studies(open_storage(url), results.name).items():
        if not schema.is_search(method):
            save_note(study, f"# {_escape(method_label(method))}\n\n{outcomes}")
            for key, figure in figures.items():
                save_plotly_graph_object(study, figure, graph_object_id=key)


def serve(url: str, host: str, port: int, artifacts: Path | None) -> None:
    """Run optuna-dashboard over the storage at `url` until it is interrupted.

    Args:
        artifacts: folder of the stored networks; by default the one beside an SQLite file.

    Raises:
        NsoptError: if the storage or a given folder is missing, or the address cannot be used.
    """
    import optuna_dashboard  # noqa: PLC0415

    if artifacts is not None and not artifacts.is_dir():
        raise NsoptError(f"no folder {artifacts} of stored networks: give the one beside study.db")
    storage = existing_storage(url)
    folder = artifacts_beside(url, artifacts)
    store = FileSystemArtifactStore(folder) if folder is not None and folder.is_dir() else None
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise NsoptError(
            f"cannot serve on {host}:{port} ({error}): try another port= or host="
        ) from None
    optuna_dashboard.run_server(storage, host=host, port=port, artifact_store=store)


def describe_outcomes(results: Results) -> str:
    """Return the answer of a comparison and its numbers, in Markdown."""
    sentences = [*map(_escape, answer(results)), _escape(warn_of_latencies(results))]
    rows = short_rows(results)
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    table = "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)
    head = f"Mean ± sample standard deviation over n seeds; latencies in {results.latency_unit}."
    if results.is_trained and results.settings["preset"] != "paper":
        head += " A short protocol: no network is trained to convergence."
    return "\n\n".join(filter(None, [*sentences, head, table]))


def _escape(value: object) -> str:
    """Escape HTML, and characters that would end a cell of a Markdown table."""
    return html.escape(str(value), quote=False).replace("|", "\\|").replace("\n", " ")
