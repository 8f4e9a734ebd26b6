"""What makes the numbers of a page doubtful, and which networks need training."""

import math

from nsopt.latency.record import distrust
from nsopt.methods.registry import DENSE
from nsopt.reports.results import Results
from nsopt.tasks.accuracy import find_error, is_near_chance

_LITTLE = 0.01  # of the accuracy: a network that loses less is still good without training


def doubt_split(split: float | None) -> str:
    """Return a warning if nsopt divides a folder on which a network was trained before, else ""."""
    if split is None:
        return ""
    return (
        "nsopt chose the test images of this folder. Those with which the network was trained make "
        "its own accuracy too high: put your test images into test/ of the folder instead"
    )


def doubt_latencies(results: Results) -> str:
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
