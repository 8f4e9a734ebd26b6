"""The answer of a comparison in sentences: which method wins at a budget, and how surely.

The score of the validation selects the method; that of the test is compared, or of the validation
if there is no test. Differences are paired by seed, with an interval at 90 %: Student's over the
seeds, or for images that of a sample of so many test images if it is wider.
"""

import warnings
from collections.abc import Mapping
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
    best = rows.loc[rows["val_mean"].idxmax()]
    here = results.outcomes.query("budget == @best.budget and metric == @best.metric")
    trained = {name: here[here["method"] == name].set_index("seed") for name in rows["method"]}
    equals = _find_equals(best["method"], trained)
    label = " and ".join(map(method_label, equals))
    others, is_certain = rows[~rows["method"].isin(equals)], False
    if chance := _describe_chance(results, rows):
        text = chance
    elif others.empty:
        score = _describe_score(results, trained[best["method"]][results.final])
        text = f"{label} {_has(equals)} {score}."
    else:  # the reference, or else the next best
        reference = others[others["method"] == results.methods[0]]
        rival = (others.nlargest(1, "val_mean") if reference.empty else reference).iloc[0]
        text, is_certain = _compare(results, trained, best, equals, rival)
    budget = get_metric(best["metric"]).show(best["budget"])
    size = budget if pd.isna(best["ratio"]) else f"{best['ratio']:g}x ({budget})"
    widths = set(trained[best["method"]]["widths"])
    return Verdict(
        text=f"{size}: {text}{_describe_limits(results, rows, best)}",
        method=label,
        widths=width_key(*widths) if len(widths) == 1 else "",
        is_certain=is_certain,
        row=best,
    )


def _find_equals(best: str, trained: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the best method and those that train networks of its widths, all from scratch."""
    widths = {
        method: set(trainings["widths"])
        for method, trainings in trained.items()
        if not (is_method(method) and get_method(method).inherits_weights)
    }
    same = [method for method, found in widths.items() if found == widths.get(best)]
    return [best, *(method for method in same if method != best)]


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


def _describe_score(results: Results, scores: pd.Series) -> str:
    """Return the mean score of all seeds and its standard error."""
    errors = [] if len(scores) == 1 else [scores.sem()]
    if "test" in results.image_counts:
        errors.append(find_error(scores.mean(), results.image_counts["test"]))
    shown = f"standard error {max(errors):.2g}" if errors else "one seed, no error known"
    return f"{results.show_score(scores.mean())} {results.final_name} ({shown})"


def _compare(
    results: Results,
    trained: Mapping[str, pd.DataFrame],
    best: pd.Series,
    equals: list[str],
    rival: pd.Series,
) -> tuple[str, bool]:
    """Say how the best by the validation, the methods `equals`, differs from its rival in the score
    and in cost; return also whether the difference in the score is certain."""
    label, rival_label = (" and ".join(map(method_label, m)) for m in (equals, [rival["method"]]))
    one, other = (trained[row["method"]][results.final] for row in (best, rival))
    shared = one.index.intersection(other.index)
    if len(shared):
        one, other = one[shared], other[shared]
    difference = paired_difference(one, other, results.image_counts.get("test"))
    name, is_own = results.final_name, bool(results.task.score_name)
    scores = ", ".join(
        f"{of} {results.show_score(part.mean())}"
        for of, part in ((label, one), (rival_label, other))
    )
    if difference is None:
        return f"{label} and {rival_label} have no seed in common. {scores} {name}.", False
    interval = f"90 %: {difference.interval}, {difference.n} seeds"
    costs = _compare_costs(best, rival)
    price = f" {'They cost' if len(equals) > 1 else 'It costs'} {costs}." if costs else ""
    points = f"{abs(difference.mean):.3g}" if is_own else f"{abs(difference.mean):.1f} points"
    if difference.low > 0:
        verb = "win" if len(equals) > 1 else "wins"
        text = f"{label} {verb} by {points} of {name} over {rival_label} ({interval})"
    elif difference.high < 0:
        best_of = "score of the validation" if is_own else "validation accuracy"
        text = (
            f"{label} {_has(equals)} the best {best_of}, but {points} less {name} than "
            f"{rival_label} ({interval})"
        )
    else:
        gain = f"{_signed(difference.mean)}; {difference.interval}"
        text = f"no difference shown. {scores} ({gain})"
    return f"{text}.{price}", difference.is_certain


def _compare_costs(row: pd.Series, rival: pd.Series) -> str:
    """Return the costs of `row` in those of `rival`, as far as they differ."""
    factors = {unit: row[column] / rival[column] for column, unit in _COSTS.items()}
    parts = [
        f"{factor:.2g}x the {unit}"
        for unit, factor in factors.items()
        if max(factor, 1 / factor) >= _AS_MUCH  # NaN where a latency is unknown
    ]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _signed(value: float) -> str:
    """Format a difference: one decimal, or two digits if it is small."""
    return f"{value:+.2g}" if 0 < abs(value) < 0.05 else f"{value:+.1f}"


def _has(methods: list[str]) -> str:
    return "have" if len(methods) > 1 else "has"


def _describe_limits(results: Results, rows: pd.DataFrame, best: pd.Series) -> str:
    """Return sentences about the budget: whether its law is extrapolated there, which limit binds,
    and which networks were measured to be slower."""
    text = ""
    if not pd.isna(best["beyond_record"]):
        factor = describe_reach(best["beyond_record"])
        text += f" The budget is {factor}: its law is extrapolated there."
    if name_binding(best):
        text += f" The budget of {name_binding(best)} binds."
    limits = dict(get_metric(best["metric"]).limits_at(best["budget"]))
    if LATENCY not in limits or not results.is_timed_as_budgets:
        return text
    slow = rows[~rows["feasible"] & (rows["latency_ms"] > _ABOVE * limits[LATENCY])]
    for method, milliseconds in zip(slow["method"], slow["latency_ms"], strict=True):
        text += (
            f" {method_label(method)} measured {milliseconds:.4g} {results.batch_unit}, "
            f"{100 * (milliseconds / limits[LATENCY] - 1):.0f} % above the budget of "
            f"{limits[LATENCY]:.4g} ms."
        )
    return text
