"""Metrics: reading and writing budgets, and the costs of networks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsopt.errors import NsoptError
from nsopt.models.registry import get_architecture
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import (
    COUNTED,
    FLASH,
    LATENCY,
    MACS,
    PARAMS,
    Joint,
    Metric,
    get_metric,
)
from nsopt.scaling.solve import solve_widths


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


def test_a_budget_below_one_is_taken_for_a_share() -> None:
    with pytest.raises(NsoptError, match=r"0\.5 MACs are less than one: did you mean 50%\?"):
        MACS.read("0.5")


@pytest.mark.parametrize("metric", [PARAMS, MACS, FLASH, LATENCY], ids=str)
def test_a_budget_of_any_length_is_one_short_sentence(metric: Metric) -> None:
    for text in ("9" * 400, "9" * 100_000, "x" * 100_000):
        with pytest.raises(NsoptError) as caught:
            metric.read(text)
        assert len(str(caught.value)) < 200


@given(st.integers(1, 10**12))
def test_numbers_without_a_unit_are_read_unchanged(budget: int) -> None:
    assert PARAMS.read(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "6x", "k", "-3", "1e6", "2 Mio", "20ms"])
def test_an_invalid_budget_raises_an_error(text: str) -> None:
    with pytest.raises(NsoptError, match="is not a budget: write 600000, 600k or 2M"):
        PARAMS.read(text)


def test_the_error_for_milliseconds_in_a_count_suggests_latency() -> None:
    with pytest.raises(NsoptError, match=r"2M, or for milliseconds latency=20ms$"):
        MACS.read("20ms")
    with pytest.raises(NsoptError, match=r"2M$"):
        MACS.read("20s")


def test_budgets_are_written_with_their_unit() -> None:
    assert PARAMS.show(600_000) == "600,000 params"
    assert MACS.show(9_590_000) == "9,590,000 MACs"


def test_the_cost_of_a_metric_is_that_of_the_architecture() -> None:
    arch = get_architecture("resnet18")
    for metric in COUNTED:
        assert get_metric(metric.name) is metric
        assert metric.cost(arch)(arch.base_widths) == arch.cost(metric.name)(arch.base_widths)


def test_unknown_metrics_suggest_the_nearest() -> None:
    with pytest.raises(NsoptError, match="unknown metric 'mac': did you mean 'macs'"):
        get_metric("mac")


@given(st.integers(1, 10**12), st.floats(1e-6, 1e9))
def test_the_name_of_a_joint_metric_contains_its_budgets_exactly(
    params: int, milliseconds: float
) -> None:
    joint = Joint.of([(LATENCY, milliseconds), (PARAMS, params)])
    assert get_metric(joint.name) == joint
    assert joint.limits == ((PARAMS, params), (LATENCY, milliseconds))


@pytest.mark.parametrize(
    ("text", "budget", "shown"),
    [
        ("64kB", 64_000, "64 kB"),
        ("64KiB", 65_536, "65.536 kB"),
        ("1.4MB", 1_400_000, "1.4 MB"),
        ("1.5GB", 1_500_000_000, "1.5 GB"),
        ("64.1kB", 64_100, "64.1 kB"),
        ("1 MiB", 2**20, "1.048576 MB"),
        ("500", 500, "500 bytes"),
        ("500B", 500, "500 bytes"),
    ],
)
def test_bytes_are_read_and_written_with_units(text: str, budget: int, shown: str) -> None:
    assert FLASH.read(text) == budget
    assert FLASH.show(budget) == f"{shown} of flash"


@pytest.mark.parametrize("text", ["", "64k", "64ib", "0kB", "1.4TB", "-3kB", "20ms"])
def test_an_invalid_size_in_bytes_raises_an_error(text: str) -> None:
    with pytest.raises(NsoptError, match=r"is not a size in bytes: write 64kB, 64KiB or 1\.4MB"):
        FLASH.read(text)


def test_flash_counts_the_bytes_of_the_weights() -> None:
    arch = get_architecture("vgg11")
    rows = [[3, 5, 8, 13, 21, 34, 55, 89], [1] * 8]
    model = arch.build(rows[0])
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert FLASH.cost(arch)(rows[0]) == weights
    assert get_metric("flash-int8").cost(arch)(rows[0]) == weights // 4
    np.testing.assert_array_equal(FLASH.cost(arch)(rows), 4 * arch.cost("params")(rows))
    np.testing.assert_array_equal(
        FLASH.cost(arch).marginal(rows), 4 * arch.cost("params").marginal(rows)
    )
    fit = solve_widths(uniform_curve(arch.base_widths), FLASH.cost(arch), FLASH.read("64kB"))
    assert 60_000 < fit.cost <= 64_000
