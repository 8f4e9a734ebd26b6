"""The answer of a comparison in sentences: which method wins at a budget, and how surely.

The score of the validation selects the method; that of the test is compared, or of the validation
if there is no test. Differences are paired by seed, with an interval at 90 %: Student's over the
seeds, or for images that of a sample of so many test images if it is wider.
"""

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from nsopt.methods.registry import get_method, is_method, method_label
from nsopt.reports.results import Results
from nsopt.reports.tables import name_binding, summary
from nsopt.scaling.metric import LATENCY, get_metric
from nsopt.scaling.record import describe_reach
from nsopt.storage.schema import width_key
from nsopt.tasks.accuracy import find_error, is_near_chance

_COVERAGE = 0.9
_QUANTILE = 1.645  # of the normal distribution, for this coverage
_AS_MUCH = 1.05  # ratios of costs below this are not worth a word
_ABOVE = 1.005  # of a budget: a latency that is not above it when rounded to a percent
_COSTS = {"params": "parameters", "macs": "MACs", "latency_ms": "time"}


class Difference(NamedTuple):
    """By how much a method is ahead in the score: mean and interval over n paired seeds."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def is_certain(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def interval(self) -> str:
        """The bounds with their sign, or why there are none."""
        if np.isinf(self.high):
            return "one seed, no interval" if self.n == 1 else "equal in all seeds, no interval"
        return f"{_signed(self.low)} to {_signed(self.high)}"


class Verdict(NamedTuple):
    """The result at one budget.

    Attributes:
        method: the best by validation accuracy, or several with the same widths.
        widths: of that method; empty if they differ between seeds.
        is_certain: whether the interval of the difference excludes zero.
        row: of the summary, of that method.
    """

    text: str
    method: str
    widths: str
    is_certain: bool
    row: pd.Series

    def __repr__(self) -> str:
        """Return the sentence, without the row."""
        return f"Verdict({str(self)!r})"

    def __str__(self) -> str:
        return f"{self.text} Widths of {self.method}: {self.widths}." if self.widths else self.text


def answer(results: Results) -> list[Verdict]:
    """Return a verdict for every budget of every metric, smallest first."""
    budgets = [rows for _, rows in summary(results).groupby(["metric", "budget"], sort=False)]
    compared = [rows for rows in budgets if len(rows) > 1]
    return [_judge_budget(results, rows) for rows in compared or budgets]


def paired_difference(
    one: pd.Series, other: pd.Series, test_images: int | None = None
) -> Difference | None:
    """Return by how much `one` is ahead of `other`, both scores by seed; None if they share none.

    Without a number of images, equal differences have no interval: that they agree is chance.

    Args:
        test_images: the interval is at least as wide as for two samples of so many images.
    """
    from scipy.stats import ttest_1samp  # noqa: PLC0415  (slow to import)

    differences = (one - other).dropna()
    n = len(differences)
    if n == 0:
        return None
    mean = float(differences.mean())
    if n == 1 or (test_images is None and np.allclose(differences, mean, atol=0)):
        return Difference(mean, -np.inf, np.inf, n)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # if nearly equal
        low, high = ttest_1samp(differences.to_numpy(), 0.0).confidence_interval(_COVERAGE)
    radius = 0.0
    if test_images is not None:
        shares = np.array([part[differences.index].mean() for part in (one, other)]) / 100
        radius = 100 * _QUANTILE * float(np.sqrt((shares * (1 - shares)).sum() / test_images))
    return Difference(mean, min(float(low), mean - radius), max(float(high), mean + radius), n)


def _judge_budget(results: Results, rows: pd.DataFrame) -> Verdict:
    """Return the verdict at one budget, whose rows of the summary these are."""
    best = _find_best(results, rows)
    equals = _find_equals(results, best, rows["method"])
    label = " and ".join(map(method_label, equals))
    rival = _choose_rival(rows[~rows["method"].isin(equals)], results.methods[0])
    difference = None
    if chance := _describe_chance(results, rows):
        text = chance
    elif rival is None:
        text = f"{label} {_has(equals)} {_describe_score(results, best)}."
    else:
        images = results.image_counts.get("test")
        difference = paired_difference(*_pair_scores(results, best, rival), images)
        text = _compare(results, best, equals, rival, difference)
    widths = _find_widths(results, best, best["method"])
    return Verdict(
        text=f"{_format_budget(best)}: {text}{_describe_limits(results, rows, best)}",
        method=label,
        widths=width_key(*widths) if len(widths) == 1 else "",
        is_certain=difference is not None and difference.is_certain,
        row=best,
    )


def _describe_chance(results: Results, rows: pd.DataFrame) -> str:
    """Return that no network of images learned anything, or ""."""
    classes, images = results.task.classes, results.image_counts.get("test")
    if images is None or classes is None:
        return ""
    if not is_near_chance(float(rows["test_mean"].max()), classes, images):
        return ""
    advice = "Train longer, or test on more images"
    return (
        f"nothing is proved. On {images:,} test images no network is surely better than a "
        f"guess ({100 / classes:.3g} % for {classes} classes). "
        f"{advice if results.is_trained else 'Give trained weights'}."
    )


def _describe_score(results: Results, row: pd.Series) -> str:
    """Return the score of a row and its standard error."""
    scores = _select_outcomes(results, row, row["method"])[results.final]
    errors = [] if len(scores) == 1 else [scores.sem()]
    if "test" in results.image_counts:
        errors.append(find_error(scores.mean(), results.image_counts["test"]))
    shown = f"standard error {max(errors):.2g}" if errors else "one seed, no error known"
    return f"{results.show_score(scores.mean())} {results.final_name} ({shown})"


def _describe_limits(results: Results, rows: pd.DataFrame, best: pd.Series) -> str:
    """Return sentences about the budget: whether its law is extrapolated there, which limit binds,
    and which networks are slower."""
    text = ""
    if not pd.isna(best["beyond_record"]):
        factor = describe_reach(best["beyond_record"])
        text += f" The budget is {factor}: its law is extrapolated there."
    if name_binding(best):
        text += f" The budget of {name_binding(best)} binds."
    if results.is_timed_as_budgets:
        text += "".join(_describe_excess(row, results.batch_unit) for _, row in rows.iterrows())
    return text


def _pair_scores(
    results: Results, best: pd.Series, rival: pd.Series
) -> tuple[pd.Series, pd.Series]:
    """Return the scores of both by seed: of the seeds that both have, or if none is, of all."""
    scores, others = (
        _select_outcomes(results, best, row["method"]).set_index("seed")[results.final]
        for row in (best, rival)
    )
    shared = scores.index.intersection(others.index)
    return (scores[shared], others[shared]) if len(shared) else (scores, others)


def _find_best(results: Results, rows: pd.DataFrame) -> pd.Series:
    """Return the row with the best mean score of the validation."""
    return rows.loc[rows["val_mean"].idxmax()]


def _describe_excess(row: pd.Series, unit: str) -> str:
    """Return a sentence if a network was measured to be slower than its budget, else ""."""
    budget = dict(get_metric(row["metric"]).limits_at(row["budget"])).get(LATENCY, np.nan)
    if row["feasible"] or not row["latency_ms"] > _ABOVE * budget:  # NaN where there is none
        return ""
    excess = 100 * (row["latency_ms"] / budget - 1)
    return (
        f" {method_label(row['method'])} measured {row['latency_ms']:.4g} {unit}, "
        f"{excess:.0f} % above the budget of {budget:.4g} ms."
    )


def _format_budget(row: pd.Series) -> str:
    budget = get_metric(row["metric"]).show(row["budget"])
    return budget if pd.isna(row["ratio"]) else f"{row['ratio']:g}x ({budget})"


def _compare(
    results: Results,
    best: pd.Series,
    equals: list[str],
    rival: pd.Series,
    difference: Difference | None,
) -> str:
    """Say how the best by the validation, the methods `equals`, differs from its rival in the score
    and in cost."""
    label, rival_label = (" and ".join(map(method_label, m)) for m in (equals, [rival["method"]]))
    score, name = results.show_score, results.final_name
    mean, mean_of_rival = (score(by_seed.mean()) for by_seed in _pair_scores(results, best, rival))
    scores = f"{label} {mean}, {rival_label} {mean_of_rival}"
    if difference is None:
        return f"{label} and {rival_label} have no seed in common. {scores} {name}."
    interval = f"90 %: {difference.interval}, {difference.n} seeds"
    costs = _compare_costs(best, rival)
    price = f" {'They cost' if len(equals) > 1 else 'It costs'} {costs}." if costs else ""
    is_own = bool(results.task.score_name)
    points = f"{abs(difference.mean):.3g}" if is_own else f"{abs(difference.mean):.1f} points"
    if difference.low > 0:
        verb = "win" if len(equals) > 1 else "wins"
        return f"{label} {verb} by {points} of {name} over {rival_label} ({interval}).{price}"
    if difference.high < 0:
        best_of = "score of the validation" if is_own else "validation accuracy"
        return (
            f"{label} {_has(equals)} the best {best_of}, but {points} less {name} than "
            f"{rival_label} ({interval}).{price}"
        )
    gain = _signed(difference.mean)
    return f"no difference shown. {scores} ({gain}; {difference.interval}).{price}"


def _signed(value: float) -> str:
    """Format a difference: one decimal, or two digits if it is small."""
    return f"{value:+.2g}" if 0 < abs(value) < 0.05 else f"{value:+.1f}"


def _has(methods: list[str]) -> str:
    return "have" if len(methods) > 1 else "has"


def _compare_costs(row: pd.Series, rival: pd.Series) -> str:
    """Return the costs of `row` in those of `rival`, as far as they differ."""
    parts = []
    for column, unit in _COSTS.items():
        factor = row[column] / rival[column]
        if max(factor, 1 / factor) >= _AS_MUCH:  # NaN where a latency is unknown
            parts.append(f"{factor:.2g}x the {unit}")
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else "".join(parts)


def _find_equals(results: Results, best: pd.Series, methods: Iterable[str]) -> list[str]:
    """Return the best method and those that train networks of its widths, all from scratch."""

    def find(method: str) -> set[tuple[int, ...]] | None:
        inherits = is_method(method) and get_method(method).inherits_weights
        return None if inherits else _find_widths(results, best, method)

    widths = find(best["method"])
    others = [m for m in methods if m != best["method"] and widths and find(m) == widths]
    return [best["method"], *others]


def _choose_rival(rows: pd.DataFrame, reference: str) -> pd.Series | None:
    """Return the row with which to compare the best: the reference, or else the next best."""
    if rows.empty:
        return None
    of_reference = rows[rows["method"] == reference]
    return (rows.nlargest(1, "val_mean") if of_reference.empty else of_reference).iloc[0]


def _select_outcomes(results: Results, at: pd.Series, method: str) -> pd.DataFrame:
    """Return the trainings of a method at the budget of a row."""
    return results.outcomes.query(
        "method == @method and budget == @at.budget and metric == @at.metric"
    )


def _find_widths(results: Results, at: pd.Series, method: str) -> set[tuple[int, ...]]:
    return set(_select_outcomes(results, at, method)["widths"])
