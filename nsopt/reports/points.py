"""The outcomes of each method as points of a figure, with means."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from nsopt.methods.registry import method_label
from nsopt.reports.results import Results
from nsopt.reports.style import MethodStyle, method_styles
from nsopt.reports.tables import format_measured, size_of, with_deviation
from nsopt.storage.schema import TaskDescription, width_key


class MethodPoints(NamedTuple):
    """Outcomes of one method: x, y and hover text of trials and of means, with the deviation and
    range of y, and the quartiles of x if x is a latency."""

    method: str
    style: MethodStyle
    x: list[float]
    y: list[float]
    text: list[str]
    mean_x: list[float]
    mean_y: list[float]
    mean_text: list[str]
    deviation: list[float]
    low: list[float]
    high: list[float]
    quartiles: list[tuple[float, float]] | None


def collect_points(results: Results, x: str, y: str) -> list[MethodPoints]:
    """Return two columns of the outcomes, by method."""
    styles, points = method_styles(results.methods), []
    unit, task = results.batch_unit, results.task
    for method in results.methods:
        trials = results.outcomes[results.outcomes["method"] == method].dropna(subset=x)
        if trials.empty:
            continue
        groups = sorted(
            (group for _, group in trials.groupby(["metric", "budget"], sort=True)),
            key=lambda group: float(group[x].mean()),
        )
        points.append(
            MethodPoints(
                method=method,
                style=styles[method],
                x=trials[x].tolist(),
                y=trials[y].tolist(),
                text=[_describe(row, unit, task) for row in trials.to_dict("records")],
                mean_x=[float(group[x].mean()) for group in groups],
                mean_y=[float(group[y].mean()) for group in groups],
                mean_text=[_describe_mean(group, unit, task) for group in groups],
                deviation=[float(group[y].std()) if len(group) > 1 else 0.0 for group in groups],
                low=[float(group[y].min()) for group in groups],
                high=[float(group[y].max()) for group in groups],
                quartiles=[_average_quartiles(group) for group in groups]
                if x == "latency_ms"
                else None,
            )
        )
    return points


def _average_quartiles(group: pd.DataFrame) -> tuple[float, float]:
    columns = ["latency_lower_quartile_ms", "latency_upper_quartile_ms"]
    low, high = group[columns].astype(float).mean()
    return float(low), float(high)


def describe_scores(task: TaskDescription, show: Callable[[str], str]) -> str:
    """Return the scores of a network in words; `show` formats a column."""
    shown = f"{task.score_name or 'validation'} {show('score')}{task.unit}"
    return f"{shown}, test {show('test_score')}{task.unit}" if task.has_test else shown


def _describe(trial: dict[str, Any], unit: str, task: TaskDescription) -> str:
    return "<br>".join(
        [
            f"<b>{method_label(trial['method'])}, {size_of(trial)}, seed {trial['seed']}</b>",
            f"widths {width_key(trial['widths'])}",
            f"{trial['params']:,} parameters, {trial['macs']:,} MACs",
            format_measured(trial, unit),
            describe_scores(task, lambda name: f"{trial[name]:.2f}"),
        ]
    )


def _describe_mean(group: pd.DataFrame, unit: str, task: TaskDescription) -> str:
    first = group.iloc[0].to_dict()

    def show(name: str) -> str:
        return with_deviation(group[name].mean(), group[name].std())

    return "<br>".join(
        [
            f"<b>{method_label(first['method'])}, {size_of(first)}, mean of {len(group)}</b>",
            f"{group['params'].mean():,.0f} parameters, {group['macs'].mean():,.0f} MACs",
            format_measured({"latency_ms": group["latency_ms"].mean()}, unit),
            describe_scores(task, show),
        ]
    )
