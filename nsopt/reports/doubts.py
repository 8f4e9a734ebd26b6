"""What makes the numbers of a page doubtful."""

from nsopt.latency.sittings import distrust
from nsopt.reports.results import Results


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
