"""Which measurements of latency count, and when they are doubtful."""

from typing import Any

from nsopt.latency.sittings import choose_latencies, distrust


def measured(sitting: str | None, spread: float | None, **networks: float) -> list[dict[str, Any]]:
    """The latencies of a sitting, by network."""
    same = {"sitting": sitting, "spread": spread, "waited": spread}
    return [{"widths": name, "median_ms": ms} | same for name, ms in networks.items()]


def chosen(*sittings: list[dict[str, Any]], networks: str = "") -> dict[str, float]:
    latencies = [latency for sitting in sittings for latency in sitting]
    return {name: each["median_ms"] for name, each in choose_latencies(latencies, networks).items()}


def test_the_calmest_sitting_counts_in_any_order() -> None:
    calm, busy = measured("1", 0.05, a=12, b=33), measured("2", 0.7, a=38, b=91)
    assert chosen(calm, busy) == chosen(busy, calm) == {"a": 12, "b": 33}
    assert chosen(measured("3", 0.01, a=11, b=30), calm, busy) == {"a": 11, "b": 30}


def test_a_complete_sitting_takes_precedence_over_a_calm_one() -> None:
    part, whole = measured("1", 0.01, a=12), measured("2", 0.2, a=14, b=40)
    assert chosen(part, whole) == {"a": 14, "b": 40}
    assert chosen(part, whole, networks="a") == {"a": 12, "b": 40}


def test_every_network_gets_a_latency_without_a_complete_sitting() -> None:
    assert chosen(measured("1", 0.3, a=1, b=2), measured("2", 0.1, c=3)) == {"a": 1, "b": 2, "c": 3}
    assert chosen() == {}


def test_a_sitting_with_a_known_spread_takes_precedence() -> None:
    old = measured(None, None, a=1)
    assert chosen(measured("1", 0.9, a=2), old) == {"a": 2}
    assert chosen(old) == {"a": 1}


def test_a_busy_machine_causes_a_warning() -> None:
    assert distrust([0.05, None, float("nan")], [0.0, None, 0.1]) == ""
    told = distrust([0.05, 0.5], [0.0, 0.4])
    assert "Rounds of 1 of 2 networks differ by more than 15% (up to 50%)" in told
    assert "threads of 1 of 2 networks waited for a processor (up to 40% of the time)" in told
