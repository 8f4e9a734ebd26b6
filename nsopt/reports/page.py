"""The report: a self-contained HTML page, with its numbers in CSV files beside it.

`plotly-basic.min.js` is Plotly's own small bundle (MIT license), a quarter of the full one.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader

from nsopt.data.source import FOLDER_PREFIX
from nsopt.files import check_writable, write_whole
from nsopt.methods.registry import method_label
from nsopt.reports.figures import draw_accuracy, draw_pareto, draw_widths
from nsopt.reports.results import Results
from nsopt.reports.tables import format_networks, short_rows, write_csv
from nsopt.reports.words import answer, warn_of_latencies, warn_of_split
from nsopt.scaling.metric import MACS, PARAMS
from nsopt.storage.schema import DENSE, width_key


def write_report(results: Results, folder: Path) -> Path:
    """Write `index.html` and CSV files of a comparison; return the page's path.

    Raises:
        NsoptError: if nothing can be written there, such as to a file in place of a folder.
    """
    check_writable(folder, "folder=")
    folder.mkdir(parents=True, exist_ok=True)
    page, csv_files = folder / "index.html", write_csv(results, folder)
    write_whole(page, render(results, csv_files).encode())
    return page


def render(results: Results, csv_files: list[str]) -> str:
    """Return the page as HTML; the template engine escapes all text from users."""
    scores = _draw_scores(results)
    figures = scores | {"widths": draw_widths(results)}
    return render_template(
        "page.html",
        results.name,
        results=results,
        networks=results.networks and format_networks(results.networks, results.task.score_name),
        candidates=[
            {
                "budget": budget,
                "widths by": method_label(candidate.name),
                "agreement %": f"{candidate.agreement:.1f}",
                "taken": "yes" if candidate.trained else "",
                "widths": width_key(candidate.widths),
            }
            for budget, candidate in results.candidates
        ],
        data=results.task.data.removeprefix(FOLDER_PREFIX),
        order=list(scores),
        figures={key: fragment(figure, key) for key, figure in figures.items()},
        answer=answer(results),
        trainings=int((results.outcomes["method"] != DENSE).sum()),
        warnings=[
            warn_of_split(results.split if results.networks else None),
            warn_of_latencies(results),
        ],
        rows=short_rows(results),
        failures=results.failures.to_dict("records"),
        settings=_list_settings(results),
        provenance=flatten(results.provenance),
        csv_files=csv_files,
    )


def _list_settings(results: Results) -> list[tuple[str, Any]]:
    """Return the settings, of a search only if there was one; `start` says what it is."""
    unused = set() if results.searches else {"search"}
    settings = {name: part for name, part in results.settings.items() if name not in unused}
    if settings.get("start") is not None:
        settings["start"] = f"the trained network, checksum of its weights {settings['start']}"
    return flatten(settings)


def _draw_scores(results: Results) -> dict[str, go.Figure]:
    """Draw scores against latency and over budgets, first as the question of the study asks."""
    metrics = results.outcomes["metric"].unique()
    figures = {"pareto": draw_pareto(results)}
    if MACS.name in metrics:
        figures[MACS.name] = draw_accuracy(results, MACS.name, "MACs")
    if PARAMS.name in metrics or len(metrics) > 1:
        figures[PARAMS.name] = draw_accuracy(results)
    order = dict.fromkeys((results.compared[0][0], *figures))
    return {key: figures[key] for key in order if key in figures}


def render_template(name: str, title: str, folder: Path | None = None, **values: Any) -> str:
    """Return a page as HTML; the template engine escapes all text from users.

    Args:
        folder: of the template, if it is not one of nsopt.
    """
    loaders = [] if folder is None else [FileSystemLoader(folder)]
    loader = ChoiceLoader([*loaders, PackageLoader("nsopt.reports", ".")])
    environment = Environment(loader=loader, autoescape=True)
    plotly = (files("nsopt.reports") / "plotly-basic.min.js").read_text(encoding="utf-8")
    return environment.get_template(name).render(title=title, plotly=plotly, **values)


def fragment(figure: go.Figure, key: str) -> str:
    """Return a figure as HTML for a page; any text `key` becomes its id."""
    word = re.sub(r"[^\w-]", "_", key)
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{word}",
        config={
            "displaylogo": False,
            "displayModeBar": "hover",
            "responsive": True,
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d"],
        },
    )
    return html


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested settings to (dotted name, value)."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs
