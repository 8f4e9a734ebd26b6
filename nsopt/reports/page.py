"""The report: a self-contained HTML page, with its numbers in CSV files beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from nsopt.data.source import FOLDER_PREFIX
from nsopt.files import check_writable, write_whole
from nsopt.methods.registry import method_label
from nsopt.reports.accuracy import draw_accuracy, draw_dots, draw_pareto, find_front
from nsopt.reports.doubts import describe_fits, doubt_latencies, doubt_split
from nsopt.reports.law import draw_law
from nsopt.reports.results import Results
from nsopt.reports.tables import (
    list_descent,
    name_runtime,
    search_label,
    share,
    summary_rows,
    write_csv,
)
from nsopt.reports.template import flatten, fragment, render_template
from nsopt.reports.widths import draw_widths
from nsopt.reports.words import answer
from nsopt.scaling.metric import MACS, PARAMS
from nsopt.storage.networks import format_networks
from nsopt.storage.schema import DENSE, width_key


def write_report(results: Results, folder: Path) -> Path:
    """Write `index.html` and CSV files of a comparison; return the page's path.

    Raises:
        NsoptError: if nothing can be written there, such as to a file in place of a folder.
    """
    check_writable(folder, "folder=")
    folder.mkdir(parents=True, exist_ok=True)
    page, files = folder / "index.html", write_csv(results, folder)
    write_whole(page, render(results, files).encode())
    return page


def render(results: Results, csv_files: list[str]) -> str:
    """Return the page as HTML; the template engine escapes all text from users."""
    verdicts = answer(results)
    scores = _draw_scores(results)
    figures = scores | {"widths": draw_widths(results)}
    figures |= {search: draw_law(results, search) for search in results.searches}
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
        answer=verdicts,
        is_ahead=any(verdict.is_certain for verdict in verdicts),
        trainings=int((results.outcomes["method"] != DENSE).sum()),
        doubts=[doubt_split(results.split if results.networks else None), doubt_latencies(results)],
        fits=describe_fits(results),
        rows=summary_rows(results),
        unit=results.latency_unit,
        is_front_a_point=len(find_front(results)) == 1,
        shows_base=results.task.base_params
        and results.task.base_widths not in set(results.outcomes["widths"]),
        latencies=results.latencies.to_dict("records"),
        method_label=method_label,
        name_runtime=name_runtime,
        share=share,
        search_label=search_label,
        descents={search: list_descent(history) for search, history in results.searches.items()},
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
    """Draw scores against costs, first as the question of the study asks.

    There is a row per method if all methods share a single budget, and curves of several sizes.
    """
    outcomes, compared = results.outcomes, results.compared
    metric, budget = compared[0]
    figures = {}
    if len(compared) == 1:
        at = outcomes[(outcomes["metric"] == metric) & (outcomes["budget"] == budget)]
        figures["dots"] = draw_dots(replace(results, outcomes=at))
    figures["pareto"] = draw_pareto(results)
    sizes = outcomes[["metric", "budget"]].drop_duplicates()
    if len(sizes) > 1 and MACS.name in outcomes["metric"].unique():
        figures[MACS.name] = draw_accuracy(results, MACS.name, "MACs")
    if len(compared) > 1:
        figures[PARAMS.name] = draw_accuracy(results)
    order = dict.fromkeys(("dots", metric, *figures))
    return {key: figures[key] for key in order if key in figures}
