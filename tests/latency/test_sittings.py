"""Which measurements of latency count, and when they are doubtful.

In a sitting, networks are timed side by side. A calm one has little spread; a complete one has all
networks of a comparison.
"""

from typing import Any

from nsopt.latency.sittings import choose_latencies, distrust


def make_sitting(
    sitting: str | None, spread: float | None, **networks: float
) -> list[dict[str, Any]]:
    """Return the latencies of a sitting, one for each network."""
    same = {"sitting": sitting, "spread": spread, "waited": spread}
    return [{"widths": name, "median_ms": ms} | same for name, ms in networks.items()]


def choose(*sittings: list[dict[str, Any]], networks: str = "") -> dict[str, float]:
    latencies = [latency for sitting in sittings for latency in sitting]
    return {name: each["median_ms"] for name, each in choose_latencies(latencies, networks).items()}


def test_the_calmest_sitting_counts_in_any_order() -> None:
    calm, busy = make_sitting("1", 0.05, a=12, b=33), make_sitting("2", 0.7, a=38, b=91)
    assert choose(calm, busy) == choose(busy, calm) == {"a": 12, "b": 33}
    assert choose(make_sitting("3", 0.01, a=11, b=30), calm, busy) == {"a": 11, "b": 30}


def test_a_complete_sitting_takes_precedence_over_a_calm_one() -> None:
    part, whole = make_sitting("1", 0.01, a=12), make_sitting("2", 0.2, a=14, b=40)
    assert choose(part, whole) == {"a": 14, "b": 40}
    assert choose(part, whole, networks="a") == {"a": 12, "b": 40}


def test_every_network_gets_a_latency_without_a_complete_sitting() -> None:
    assert choose(make_sitting("1", 0.3, a=1, b=2), make_sitting("2", 0.1, c=3)) == {
        "a": 1,
        "b": 2,
        "c": 3,
    }
    assert choose() == {}


def test_a_sitting_with_a_known_spread_takes_precedence() -> None:
    old = make_sitting(None, None, a=1)
    assert choose(make_sitting("1", 0.9, a=2), old) == {"a": 2}
    assert choose(old) == {"a": 1}


def test_a_busy_machine_causes_a_warning() -> None:
    assert distrust([0.05, None, float("nan")], [0.0, None, 0.1]) == ""
    warning = distrust([0.05, 0.5], [0.0, 0.4])
    assert "Rounds of 1 of 2 networks differ by more than 15% (up to 50%)" in warning
    assert "threads of 1 of 2 networks waited for a processor (up to 40% of the time)" in warning


def test_threads_that_together_wait_longer_than_the_passes_waited_all_the_time() -> None:
    assert "(up to 100% of the time)" in distrust([0.05], [1.7])
