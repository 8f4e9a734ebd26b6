"""What a report says in sentences: verdicts at each budget, and warnings.

The score of the validation selects the method; that of the test is compared, or of the validation
if there is no test. Differences are paired by seed, with an interval at 90 %: Student's over the
seeds, or for images that of a sample of so many test images if it is wider.
"""

import math
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from nsopt.latency.record import distrust
from nsopt.methods.registry import DENSE, get_method, is_method, method_label
from nsopt.reports.results import Results
from nsopt.reports.tables import summary
from nsopt.scaling.metric import LATENCY, get_metric
from nsopt.scaling.record import describe_reach
from nsopt.storage.schema import width_key
from nsopt.tasks.accuracy import find_error, is_near_chance

_COVERAGE = 0.9
_QUANTILE = 1.645  # of the normal distribution, for this coverage
_AS_MUCH = 1.05  # ratios of costs below this are not worth a word
_ABOVE = 1.005  # of a budget: a latency that is not above it when rounded to a percent
_COSTS = {"params": "parameters", "macs": "MACs", "latency_ms": "time"}
_LITTLE = 0.01  # of the accuracy: a network that loses less is still good without training


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
        return f"90 %: {_signed(self.low)} to {_signed(self.high)}, {self.n} seeds"


class Verdict(NamedTuple):
    """The result at one budget.

    Attributes:
        method: the best by validation score, or several with the same widths.
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
        text = f"{label}: {_describe_score(results, trained[best['method']][results.final])}."
    else:  # the reference, or else the next best
        reference = others[others["method"] == results.methods[0]]
        rival = (others.nlargest(1, "val_mean") if reference.empty else reference).iloc[0]
        scores = trained[best["method"]][results.final], trained[rival["method"]][results.final]
        text, is_certain = _compare(results, label, (best, rival), scores)
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
    advice = "train longer" if results.is_trained else "give trained weights"
    return (
        f"on {images:,} test images no network is surely better than a guess "
        f"({100 / classes:.3g} % for {classes} classes): {advice}."
    )


def _describe_score(results: Results, scores: pd.Series) -> str:
    """Return the mean score of all seeds and its standard error."""
    errors = [] if len(scores) == 1 else [scores.sem()]
    if "test" in results.image_counts:
        errors.append(find_error(scores.mean(), results.image_counts["test"]))
    error = f"standard error {max(errors):.2g}" if errors else "one seed, no error known"
    return f"{results.show_score(scores.mean())} {results.final_name} ({error})"


def _compare(
    results: Results,
    label: str,
    rows: tuple[pd.Series, pd.Series],
    scores: tuple[pd.Series, pd.Series],
) -> tuple[str, bool]:
    """Compare the best by the validation with a rival; return also whether the result is certain.

    Args:
        label: of the best method, or of several with its widths.
        rows: the best and the rival in the summary.
        scores: of both, by seed.
    """
    rival, own = method_label(rows[1]["method"]), bool(results.task.score_name)
    difference = paired_difference(*scores, results.image_counts.get("test"))
    if difference is None:
        return f"{label} and {rival} have no seed in common.", False
    gap = f"{abs(difference.mean):.3g}" if own else f"{abs(difference.mean):.1f} points"
    if difference.low > 0:
        text = f"{label} ahead of {rival} by {gap} of {results.final_name}"
    elif difference.high < 0:
        text = f"{label} ahead of {rival} in validation, but {gap} behind in {results.final_name}"
    else:
        shared = scores[0].index.intersection(scores[1].index)
        one, other = (results.show_score(part[shared].mean()) for part in scores)
        text = f"no difference shown: {label} {one}, {rival} {other}"
    factors = {unit: rows[0][column] / rows[1][column] for column, unit in _COSTS.items()}
    costs = [
        f"{factor:.2g}x the {unit}"
        for unit, factor in factors.items()
        if max(factor, 1 / factor) >= _AS_MUCH  # NaN where a latency is unknown
    ]
    price = f", at {' and '.join(costs)}" if costs else ""
    return f"{text} ({difference.interval}){price}.", difference.is_certain


def _signed(value: float) -> str:
    """Format a difference: one decimal, or two digits if it is small."""
    return f"{value:+.2g}" if 0 < abs(value) < 0.05 else f"{value:+.1f}"


def _describe_limits(results: Results, rows: pd.DataFrame, best: pd.Series) -> str:
    """Return whether the law is extrapolated at a budget, and which networks are too slow for it.

    Latencies count if the runtime and the device are those that the budgets mean.
    """
    text = ""
    if not pd.isna(best["beyond_record"]):
        text += f" Extrapolated: {describe_reach(best['beyond_record'])}."
    limits = dict(get_metric(best["metric"]).limits_at(best["budget"]))
    if LATENCY not in limits or not results.is_timed_as_budgets:
        return text
    slow = rows[~rows["feasible"] & (rows["latency_ms"] > _ABOVE * limits[LATENCY])]
    for method, milliseconds in zip(slow["method"], slow["latency_ms"], strict=True):
        excess = 100 * (milliseconds / limits[LATENCY] - 1)
        text += (
            f" {method_label(method)} takes {milliseconds:.4g} ms, {excess:.0f} % above the budget."
        )
    return text


def warn_of_split(split: float | None) -> str:
    """Return a warning if nsopt divides a folder on which a network was trained before, else ""."""
    if split is None:
        return ""
    return (
        "nsopt chose the test images of this folder. Those with which the network was trained make "
        "its own accuracy too high: put your test images into test/ of the folder instead"
    )


def warn_of_latencies(results: Results) -> str:
    """Return a warning if the machine was busy while latencies were measured, else ""."""
    networks = results.outcomes.drop_duplicates("widths")
    return distrust(networks["latency_spread"].tolist())


def describe_fits(results: Results) -> str:
    """Say what the smallest network that is still good without training loses, with its standard
    error; else "".

    The error is that of a difference on independent images, which is larger than on the same ones.
    Scores that are no accuracies of images have no error that is known.
    """
    rows, images = results.outcomes.set_index("method"), results.image_counts.get("test")
    rest = rows.drop(index=DENSE.name, errors="ignore")
    if results.is_trained or len(rest) in (0, len(rows)) or images is None:
        return ""
    whole = rows.loc[[DENSE.name]].iloc[0]
    accuracy = whole["test_score"]
    if is_near_chance(accuracy, results.task.classes or 1, images):
        return "The network before it was made smaller may only guess: give trained weights."
    best = rest.sort_values("score").groupby(["metric", "budget"])[["macs", "test_score"]].last()
    best = best.sort_values("macs", ascending=False)
    is_good = best["test_score"] >= (1 - _LITTLE) * accuracy
    good = best[is_good.cummin()]
    chosen = best.nlargest(1, "test_score").iloc[0] if good.empty else good.iloc[-1]
    error = math.hypot(*(find_error(each, images) for each in (accuracy, chosen["test_score"])))
    advice = "train them" if good.empty else "" if is_good.all() else "train smaller ones"
    return (
        f"Without training, the network with {chosen['macs'] / whole['macs']:.0%} of the MACs is "
        f"{chosen['test_score'] - accuracy:+.1f} ± {error:.1f} points of test accuracy from the "
        f"whole one (standard error, {images:,} images){advice and f': {advice}'}."
    )
