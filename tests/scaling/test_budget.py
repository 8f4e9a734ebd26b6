"""Budgets as users write them."""

import pytest

from nsopt import NsoptError, get_architecture
from nsopt.scaling.metric import (
    LATENCY,
    MACS,
    PARAMS,
    Budget,
    Joint,
    Metric,
    get_metric,
    read_budget,
    read_budgets,
)

VGG11 = get_architecture("vgg11")


def limits_of(budgets: list[Budget]) -> list[tuple[Metric, float]]:
    found = [budget.at(VGG11) for budget in budgets]
    return [(budget.metric, budget.limit) for budget in found]


def test_budgets_without_a_name_limit_one_network_each() -> None:
    found = limits_of(read_budgets("600k, 2M", MACS))
    assert found == [(MACS, 600_000), (MACS, 2_000_000)]
    found = limits_of(read_budgets(["600k,2M", 3e6, "params=5k"], MACS))
    assert found == [*((MACS, 600_000), (MACS, 2_000_000), (MACS, 3_000_000)), (PARAMS, 5000)]


def test_budgets_that_name_their_metrics_become_joint() -> None:
    asked = read_budgets("macs=20M, params=250k; params=2M", PARAMS)
    (joint, share), plain = limits_of(asked)
    assert isinstance(joint, Joint)
    assert (joint.name, share, plain) == ("params=250000,macs=20000000", 1, (PARAMS, 2_000_000))
    assert joint == get_metric(joint.name)
    assert joint.show(share) == "250,000 params and 20,000,000 MACs"
    assert joint.show(0.5) == "125,000 params and 10,000,000 MACs"
    used = [metric.cost(VGG11)(VGG11.base_widths) / limit for metric, limit in joint.limits]
    assert joint.cost(VGG11)(VGG11.base_widths) == max(used)


def test_a_percentage_is_a_share_of_what_the_base_network_costs() -> None:
    macs = VGG11.cost("macs")(VGG11.base_widths)
    half, eighth = read_budget("macs=50%"), *read_budgets("12.5%", MACS)
    assert limits_of([half, eighth]) == [(MACS, macs // 2), (MACS, macs // 8)]
    assert half.at(VGG11).word == "macs=50%"
    assert half.at(VGG11).at(VGG11) == half.at(VGG11)
    ((joint, _),) = limits_of([read_budget("macs=50%,latency=5ms")])
    assert joint.limits_at(1) == [(MACS, macs // 2), (LATENCY, 5.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params=250k,20M", "'20M' is not a budget: write macs=50%, params=600k or latency=5ms"),
        ("params=", "'params=' is not a budget: write macs=50%"),
        ("params=250k,params=500k", "write a semicolon between"),
        ("params=250k,mac=1M", "did you mean 'macs'"),
        ("params=5ms", "is not a budget"),
        ("params=250k,macs=0", "'0': a budget must be above 0"),
        ("0", "'0': a budget must be above 0"),
        *((text, "a percentage must be between 0 and 100") for text in ("0%", "100%", "x%", "%")),
    ],
)
def test_an_invalid_budget_raises_an_error(text: str, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        read_budgets(text, PARAMS)
