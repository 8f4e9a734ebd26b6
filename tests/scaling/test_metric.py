"""Metrics: reading and writing budgets, and the costs of networks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nsopt
from nsopt import NsoptError, get_architecture
from nsopt.scaling.metric import (
    COUNTED,
    LATENCY,
    MACS,
    PARAMS,
    Joint,
    Metric,
    get_metric,
    read_budgets,
)


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


@pytest.mark.parametrize("metric", [PARAMS, MACS, LATENCY], ids=str)
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


@given(st.integers(1, 10**12), st.floats(1e-6, 1e9))
def test_a_joint_metrics_name_holds_its_budgets(params: int, milliseconds: float) -> None:
    joint = Joint.of([(LATENCY, milliseconds), (PARAMS, params)])
    assert get_metric(joint.name) == joint
    assert joint.limits == ((PARAMS, params), (LATENCY, milliseconds))


@pytest.mark.parametrize("name", ["flash", "memory-int8"])
def test_a_budget_in_bytes_says_how_many_parameters_they_are(name: str) -> None:
    with pytest.raises(NsoptError, match=f"no metric {name}: limit params, which take 4 bytes"):
        read_budgets(f"{name}=64kB", PARAMS)
    for arch in (get_architecture("vgg11"), nsopt.trace(mlp(), torch.zeros(2, 8))):
        with pytest.raises(NsoptError, match=f"no metric {name}: limit params"):
            arch.cost(name)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
