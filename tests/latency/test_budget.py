"""Budgets in milliseconds hold as measured, also while the speed of the machine changes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

import nsopt
from nsopt.errors import NsoptError
from nsopt.latency import timer
from nsopt.latency.budget import MeasuredBudget
from nsopt.latency.runtime import Runtime
from nsopt.models.architecture import Architecture
from nsopt.models.registry import get_architecture
from nsopt.scaling.cost import LinearCost, unwrap
from nsopt.scaling.metric import LATENCY, get_metric
from nsopt.scaling.solve import Limits, solve_widths
from tests.latency.test_measure import Drifting, exact
from tests.rescaled import with_base_widths


@pytest.fixture
def narrow() -> Architecture:
    whole = get_architecture("vgg11", 10, 32, 3)
    return with_base_widths(whole, tuple(width // 16 for width in whole.base_widths))


def solve(
    arch: Architecture, clock: Runtime, budget: float | str, patch: pytest.MonkeyPatch
) -> float:
    """Return the share of the milliseconds of the whole network that the widths found take."""
    patch.setattr(timer, "choose_runtime", lambda *_: clock)
    law = nsopt.uniform_curve(arch.base_widths)
    found = nsopt.solve_measured_widths(arch, law, budget, device="cpu")
    assert found.widths
    return exact(arch.build(found.widths)) / exact(arch.build(arch.base_widths))


@pytest.mark.parametrize("drift", [-0.3, 0.0, 0.5])
def test_a_percentage_holds_while_the_machine_becomes_slower_or_faster(
    narrow: Architecture, drift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0.45 < solve(narrow, Drifting(drift), "50%", monkeypatch) <= 0.5


def test_a_percentage_is_one_of_the_clock_that_measures(narrow: Architecture) -> None:
    elsewhere = narrow.with_latency(LinearCost("latency", narrow.cost("macs"), 1e-3))
    law, base = nsopt.uniform_curve(narrow.base_widths), narrow.build(narrow.base_widths)
    found = nsopt.solve_measured_widths(
        elsewhere, law, "50%", runtime=lambda model, _: 1000 * exact(model), device="cpu"
    )
    assert 0.4 < exact(narrow.build(found.widths)) / exact(base) <= 0.5


def test_milliseconds_are_a_share_of_those_of_the_whole_network(
    narrow: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = 500 * exact(narrow.build(narrow.base_widths))
    assert 0.44 < solve(narrow, Drifting(0.5), half, monkeypatch) <= 0.5


@pytest.mark.parametrize("budget", ["50", "0%", "100%", "half", 0.0, float("nan")])
def test_an_invalid_budget_is_refused(narrow: Architecture, budget: float | str) -> None:
    with pytest.raises(NsoptError, match=r"a percentage must be|a number of milliseconds above 0"):
        nsopt.solve_measured_widths(narrow, nsopt.uniform_curve(narrow.base_widths), budget)


@dataclass
class FasterInBlocks:
    """A latency model by which a layer of whole blocks takes half the time."""

    metric = "latency"
    block: int = 4

    def __call__(self, widths: ArrayLike) -> Any:
        w = np.asarray(widths)
        return unwrap(np.where(w % self.block, w, w / 2).sum(axis=-1))

    def lower_bound(self, widths: ArrayLike) -> Any:
        return unwrap(np.asarray(widths).sum(axis=-1) / 2)


def test_the_solver_finds_the_widths_that_were_timed(narrow: Architecture) -> None:
    arch = narrow.with_latency(FasterInBlocks())
    law, limits = (
        nsopt.uniform_curve(arch.base_widths),
        Limits(max_width=arch.base_widths, fill=True),
    )
    asked = MeasuredBudget(arch, law, LATENCY, 50.0, limits)
    for aim in range(20, 80):
        widths, predicted, _ = asked.propose(aim)
        cost = LATENCY.cost(asked.corrected(predicted))
        assert tuple(solve_widths(law, cost, asked.limit, *limits).widths.tolist()) == widths
        assert predicted <= aim


@pytest.mark.parametrize("predicted", [0.1, 1.0, 10.0], ids=["below", "same", "above"])
def test_only_the_budget_that_stops_the_network_binds(
    narrow: Architecture, predicted: float
) -> None:
    """Whatever is predicted in place of the milliseconds that were measured."""
    macs, params = (cost(narrow.base_widths) for cost in map(narrow.cost, ("macs", "params")))
    arch = narrow.with_latency(LinearCost("latency", narrow.cost("macs"), predicted / float(macs)))
    law = nsopt.uniform_curve(arch.base_widths)
    for limit, binding in ((params / 4, "params"), (params, "latency")):
        metric = get_metric(f"params={round(limit)},latency=1ms")
        asked = MeasuredBudget(arch, law, metric, 1.0, Limits())
        of_params = solve_widths(law, arch.cost("params"), round(limit)).widths.tolist()
        half = solve_widths(law, arch.cost("macs"), macs / 2).widths.tolist()
        widths = tuple(of_params if binding == "params" else half)
        kept = solve_widths(law, metric.cost(asked.keeping(widths)), 1.0)
        assert tuple(kept.widths.tolist()) == widths
        assert kept.binding is not None
        assert metric.parts[kept.binding].name == binding
