"""Store notes and the report's figures in a comparison's storage, for optuna-dashboard."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from optuna.artifacts import FileSystemArtifactStore

from nsopt.errors import NsoptError
from nsopt.methods.registry import get_method, is_method, method_label
from nsopt.reports.accuracy import draw_pareto
from nsopt.reports.doubts import doubt_latencies
from nsopt.reports.law import draw_law
from nsopt.reports.results import Results
from nsopt.reports.tables import list_descent, search_label, titled_rows
from nsopt.reports.widths import draw_widths
from nsopt.reports.words import answer
from nsopt.session.presets import get_preset
from nsopt.storage import schema
from nsopt.storage.opening import artifacts_beside, existing_storage, open_storage
from nsopt.storage.studies import load_studies
from nsopt.storage.urls import check_address

_CARD_HEIGHT = 450
_ABOVE_OUTCOMES = (
    "Mean ± sample standard deviation over n seeds. Latencies are from the calmest time "
    "that all networks were timed side by side; a trial keeps those that it had when it ran.\n\n"
)


def publish(results: Results, url: str) -> None:
    """Save notes and figures of a comparison in its storage, at `url`, replacing older ones.

    Every study gets a note with its question, protocol and numbers. Studies of methods also get the
    answer, the Pareto front and the widths, that of the search the law. Searches without a complete
    iteration get nothing.
    """
    from optuna_dashboard import save_note, save_plotly_graph_object  # noqa: PLC0415

    front, widths = draw_pareto(results), draw_widths(results)
    outcomes = describe_outcomes(results)
    for method, study in load_studies(open_storage(url), results.name).items():
        if schema.is_search(method) and method not in results.searches:
            continue
        save_note(study, note(results, method, schema.read_settings(study), outcomes))
        if method in results.searches:
            law = _as_card(draw_law(results, method))
            save_plotly_graph_object(study, law, graph_object_id="law")
        else:
            save_plotly_graph_object(study, front, graph_object_id="pareto")
            save_plotly_graph_object(study, widths, graph_object_id="widths")


def _as_card(law: go.Figure) -> go.Figure:
    """Shrink the panels of a law to the dashboard's small figures."""
    law.for_each_annotation(lambda title: title.update(text=title.text.partition(":")[0]))
    axis = law.layout.xaxis
    law.update_xaxes(title={"text": ""}, tickvals=axis.tickvals[::2], ticktext=axis.ticktext[::2])
    below = {"x": 0.5, "y": -0.12, "xref": "paper", "yref": "paper", "showarrow": False}
    law.add_annotation(text="tau, log scale", **below)
    return law.update_layout(height=_CARD_HEIGHT, margin={"t": 60, "b": 60})


def note(results: Results, method: str, settings: Mapping[str, Any], outcomes: str) -> str:
    """Return a note in Markdown about one study of a comparison."""
    preset = str(results.settings.get("preset", ""))
    searching = schema.is_search(method)
    subject = search_label(method) if searching else method_label(method)
    parts = [
        f"# {escape_text(results.name)}: {escape_text(subject)}",
        get_preset(preset, results.task.data).question,
        make_markdown_table(list_descent(results.searches[method])) if searching else outcomes,
        describe_protocol(settings, "search" if searching else "training"),
        "" if searching else _describe_inheritance(settings, method),
    ]
    if results.is_trained and preset != "paper":
        parts.append("A short protocol: no network is trained to convergence.")
    return "\n\n".join(filter(None, parts))


def describe_protocol(settings: Mapping[str, Any], part: str) -> str:
    """Return the settings of the search or of the training, in one paragraph."""
    values = settings.get(part, {})
    text = ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
    return f"**Protocol** ({escape_text(settings.get('preset', ''))}): {escape_text(text)}"


def _describe_inheritance(settings: Mapping[str, Any], method: str) -> str:
    """Return what replaces these settings where a method's networks start from a trained one."""
    inherits = is_method(method) and get_method(method).inherits_weights
    if not inherits or settings.get("start") is not None:
        return ""
    return (
        f"Its networks start from one that trained for {settings['magnitude_epochs']} epochs, and "
        f"are fine-tuned for {settings['fine_tune_epochs']}, at a learning rate of "
        f"{settings['fine_tune_lr']}."
    )


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
    check_address(host, port)
    folder = artifacts_beside(url, artifacts)
    store = FileSystemArtifactStore(folder) if folder is not None and folder.is_dir() else None
    optuna_dashboard.run_server(storage, host=host, port=port, artifact_store=store)


def describe_outcomes(results: Results) -> str:
    """Return the answer of a comparison and its numbers, in Markdown."""
    sentences = [*map(escape_text, answer(results)), escape_text(doubt_latencies(results))]
    table = _ABOVE_OUTCOMES + make_markdown_table(titled_rows(results))
    return "\n\n".join(filter(None, [*sentences, table]))


def make_markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows with the same keys as a table in Markdown; "" without any."""
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)] if rows else []
    return "\n".join(f"| {' | '.join(map(escape_text, line))} |" for line in lines)


def escape_text(value: object) -> str:
    """Escape HTML, and characters that would end a cell of a Markdown table."""
    return html.escape(str(value), quote=False).replace("|", "\\|").replace("\n", " ")
