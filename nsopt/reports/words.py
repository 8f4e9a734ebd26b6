"""The answer of a comparison in sentences: which method is ahead at a budget, and how surely.

Validation accuracy selects the method; test accuracy is compared. Differences are paired by seed,
with Student's interval at 90 %.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from nsopt.methods.registry import method_label
from nsopt.reports.results import Results
from nsopt.reports.tables import summary
from nsopt.scaling.metric import get_metric
from nsopt.scaling.record import describe_reach
from nsopt.scaling.t_test import run_t_test
from nsopt.storage.schema import width_key

_REFERENCE = 0  # index of the reference: reports begin with uniform scaling
_COVERAGE = 0.9
_COLUMNS = {"params": "parameters", "macs": "MACs", "latency_ms": "milliseconds"}


class Difference(NamedTuple):
    """Points of test accuracy by which a method is ahead: mean and interval over n paired seeds."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def is_certain(self) -> bool:
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.mean:+.2f} points with one seed, so without an interval"
        return f"{self.mean:+.2f} points ({self.low:+.2f} to {self.high:+.2f}, {self.n} seeds)"


class Verdict(NamedTuple):
    """The result at one budget. method: the one ahead, or several with the same widths; widths:
    empty if they differ between seeds."""

    text: str
    method: str
    widths: str

    def __str__(self) -> str:
        return f"{self.text} Widths of {self.method}: {self.widths}." if self.widths else self.text


def answer(results: Results) -> list[Verdict]:
    """Return a verdict for every budget of every metric, smallest first."""
    reference = results.methods[_REFERENCE]
    budgets = [rows for _, rows in summary(results).groupby(["metric", "budget"], sort=False)]
    compared = [rows for rows in budgets if len(rows) > 1]
    return [_at_budget(results, rows, reference) for rows in compared or budgets]


def paired_difference(one: pd.Series, other: pd.Series) -> Difference | None:
    """Return by how much `one` is ahead of `other`, both by seed; None if they share no seed."""

    differences = (one - other).dropna().to_numpy()
    n = len(differences)
    if n == 0:
        return None
    mean = float(differences.mean())
    if n == 1:
        return Difference(mean, -np.inf, np.inf, n)
    low, high = run_t_test(differences).confidence_interval(_COVERAGE)
    return Difference(mean, float(low), float(high), n)


def _at_budget(results: Results, rows: pd.DataFrame, reference: str) -> Verdict:
    """rows: of the summary, at one budget."""
    best = rows.loc[rows["val_mean"].idxmax()]
    budget = get_metric(best["metric"]).show(best["budget"])
    where = budget if pd.isna(best["ratio"]) else f"{best['ratio']:g}x, {budget}"
    equals = _equals(results, best, rows["method"])
    label = " and ".join(method_label(method) for method in equals)
    verb = "have" if len(equals) > 1 else "has"
    accuracy = f"{label} {verb} {best['test_mean']:.2f} %"
    rival = _rival(rows[~rows["method"].isin(equals)], reference)
    sentences = []
    if rival is None:
        sentences.append(f"At {where}: {accuracy} on the test images.")
    else:
        difference = paired_difference(
            *(
                _outcomes(results, best, row["method"]).set_index("seed")["test_accuracy"]
                for row in (best, rival)
            )
        )
        other = method_label(rival["method"])
        sentences.append(
            f"At {where}, by validation accuracy {_standing(label, len(equals), best, rival)}; on "
            f"the test images {accuracy}{_format_difference(difference, other)}."
        )
        sentences += _at_equal_accuracy(results, best, reference)
    if not pd.isna(best["beyond_record"]):
        factor = describe_reach(best["beyond_record"])
        sentences.append(f"The budget is {factor}: its law is extrapolated there.")
    widths = _widths(results, best, best["method"])
    key = width_key(*widths) if len(widths) == 1 else ""
    return Verdict(" ".join(sentences), label, key)


def _equals(results: Results, best: pd.Series, methods: Iterable[str]) -> list[str]:
    """Return the best method and those that propose the same widths."""
    widths = _widths(results, best, best["method"])
    others = [m for m in methods if m != best["method"] and _widths(results, best, m) == widths]
    return [best["method"], *others]


def _rival(rows: pd.DataFrame, reference: str) -> pd.Series | None:
    """Return the row with which to compare the best: the reference, or else the next best."""
    if rows.empty:
        return None
    own = rows[rows["method"] == reference]
    return (rows.nlargest(1, "val_mean") if own.empty else own).iloc[0]


def _standing(label: str, count: int, best: pd.Series, rival: pd.Series) -> str:
    """Say which method is ahead by validation accuracy. label: of the `count` best."""
    if best["val_mean"] == rival["val_mean"]:
        return f"{label} and {method_label(rival['method'])} are level"
    return f"{label} {'are' if count > 1 else 'is'} ahead"


def _format_difference(difference: Difference | None, other: str) -> str:
    if difference is None:
        return f", but no seed in common with {other}"
    doubt = "" if difference.n == 1 or difference.is_certain else ": not distinguishable"
    return f", on {other} {difference}{doubt}"


def _outcomes(results: Results, at: pd.Series, method: str) -> pd.DataFrame:
    """Return the trainings of a method at the budget of a row."""
    return results.outcomes.query(
        "method == @method and budget == @at.budget and metric == @at.metric"
    )


def _widths(results: Results, at: pd.Series, method: str) -> set[tuple[int, ...]]:
    """Return the different widths of these trainings."""
    return set(_outcomes(results, at, method)["widths"])


def _at_equal_accuracy(results: Results, best: pd.Series, reference: str) -> list[str]:
    """Say what the reference needs for the accuracy of the best, if its own sizes span that."""
    curve = summary(results).query("method == @reference").sort_values("test_mean")
    accuracy = best["test_mean"]
    spans = len(curve) > 1 and curve["test_mean"].iloc[0] <= accuracy <= curve["test_mean"].iloc[-1]
    if best["method"] == reference or not spans:
        return []
    parts = []
    for column, unit in _COLUMNS.items():
        known = curve.dropna(subset=column)
        if pd.isna(best[column]) or len(known) < 2:
            continue
        needed = np.exp(np.interp(accuracy, known["test_mean"], np.log(known[column])))
        parts.append(f"{needed / best[column]:.2f} times the {unit}")
    if not parts:
        return []
    return [f"For that accuracy {method_label(reference)} needs {', '.join(parts)}."]
