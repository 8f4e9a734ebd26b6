"""Metrics: reading and writing budgets, and the costs of networks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsopt.errors import NsoptError
from nsopt.models.registry import get_architecture
from nsopt.scaling.metric import COUNTED, MACS, PARAMS, get_metric


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("600k", 600_000),
        ("2M", 2_000_000),
        ("2 M", 2_000_000),
        ("1.5m", 1_500_000),
        ("3G", 3 * 10**9),
        ("70", 70),
    ],
)
def test_budgets_are_read_with_units(text: str, budget: int) -> None:
    assert PARAMS.read(text) == MACS.read(text) == budget


@given(st.integers(1, 10**12))
def test_plain_budgets_are_read_as_they_are(budget: int) -> None:
    assert PARAMS.read(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "6x", "k", "-3", "1e6", "2 Mio", "20ms"])
def test_what_is_no_budget_says_so(text: str) -> None:
    with pytest.raises(NsoptError, match="is not a budget: write 600000, 600k or 2M"):
        PARAMS.read(text)


def test_milliseconds_for_a_count_name_the_metric_that_takes_them() -> None:
    with pytest.raises(NsoptError, match=r"2M, or give --metric latency$"):
        MACS.read("20ms")
    with pytest.raises(NsoptError, match=r"2M$"):
        MACS.read("20s")


def test_budgets_are_written_with_their_unit() -> None:
    assert PARAMS.show(600_000) == "600,000 params"
    assert MACS.show(9_590_000) == "9,590,000 MACs"


def test_a_metric_costs_what_the_architecture_says() -> None:
    arch = get_architecture("resnet18")
    for metric in COUNTED:
        assert get_metric(metric.name) is metric
        assert metric.cost(arch)(arch.base_widths) == arch.cost(metric.name)(arch.base_widths)


def test_unknown_metrics_suggest_the_nearest() -> None:
    with pytest.raises(NsoptError, match="unknown metric 'mac': did you mean 'macs'"):
        get_metric("mac")
