"""What a report says in sentences: verdicts at each budget, and warnings.

The score of the validation selects the method; that of the test is compared, or of the validation
if there is no test. Differences are paired by seed, with an interval at 90 %: Student's over the
seeds, or for images that of a sample of so many test images if it is wider.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd

from nsopt.latency.record import distrust
from nsopt.methods.registry import method_label
from nsopt.reports.results import Results
from nsopt.reports.tables import summary
from nsopt.scaling.metric import get_metric
from nsopt.scaling.record import describe_reach
from nsopt.storage.schema import width_key
from nsopt.tasks.accuracy import find_error, is_near_chance

_COVERAGE = 0.9
_QUANTILE = 1.645  # of the normal distribution, for this coverage
_AS_MUCH = 1.05  # ratios of costs below this are not worth a word
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
        return f"90 %: {_signed(self.low)} to {_signed(self.high)}, {self.n} seeds"


class Verdict(NamedTuple):
    """The result at one budget.

    Attributes:
        method: the best by validation score.
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
    label, is_certain = method_label(best["method"]), False
    others = rows[rows["method"] != best["method"]]
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
    factor, widths = best["beyond_record"], set(trained[best["method"]]["widths"])
    reach = "" if pd.isna(factor) else f" Extrapolated: {describe_reach(factor)}."
    return Verdict(
        text=f"{size}: {text}{reach}",
        method=label,
        widths=width_key(*widths) if len(widths) == 1 else "",
        is_certain=is_certain,
        row=best,
    )


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
        label: of the best method.
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
