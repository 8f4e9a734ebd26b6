"""What makes the numbers of a page doubtful, and which networks need training."""

import pandas as pd

from nsopt.compression.choice import is_near_chance
from nsopt.latency.sittings import distrust
from nsopt.methods.registry import DENSE
from nsopt.reports.results import Results

_LITTLE = 0.01  # of a score: a network without training is still good


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
    return distrust(networks["latency_spread"].tolist(), networks["latency_waited"].tolist())


def describe_fits(results: Results) -> str:
    """Say down to which share of the MACs a compression without training is good; else ""."""
    rows = results.outcomes.set_index("method")
    smaller = set(rows.index) - {DENSE.name}
    if results.is_trained or not smaller or DENSE.name not in rows.index:
        return ""
    whole, rest = rows.loc[DENSE.name], rows.drop(index=DENSE.name)
    whole = whole if isinstance(whole, pd.Series) else whole.iloc[0]
    best = rest.sort_values("score").groupby(["metric", "budget"])[["macs", "score"]].last()
    least = whole["score"] - _LITTLE * abs(whole["score"])
    name, classes = results.task.score_name or "validation accuracy", results.task.classes
    images = results.image_counts.get("validation")
    if classes and images and is_near_chance(whole["score"], classes, images):
        return "The network before it was made smaller may only guess: give trained weights."
    good, bad = (best[best["score"].ge(least) == is_good]["macs"] for is_good in (True, False))
    if bad.empty:
        return (
            f"Without training, the {name} of all is within {_LITTLE:.0%} of the whole network's."
        )
    above = good[good > bad.max()]
    if above.empty:
        return f"Without training, the {name} of all is more than {_LITTLE:.0%} lower: train them."
    return (
        f"Without training, the {name} stays within {_LITTLE:.0%} of the whole network's down to "
        f"{above.min() / whole['macs']:.0%} of its MACs: train smaller ones."
    )
