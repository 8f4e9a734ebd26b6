"""Budgets in milliseconds hold as measured, also while the speed of the machine changes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch import nn

import nsopt
from nsopt.errors import NsoptError
from nsopt.latency import measure, measured_budget, timer
from nsopt.latency.measure import CPU, Beside, bound_median
from nsopt.latency.runtime import Runtime
from nsopt.models.architecture import TableArchitecture
from nsopt.models.registry import table_architecture
from nsopt.scaling.cost import LinearCost, unwrap
from nsopt.scaling.metric import LATENCY, get_metric
from nsopt.scaling.solve import Limits, solve_widths
from tests.study.test_comparison import Listener

IMAGES = torch.zeros(100, 3, 32, 32)
_MOST_ROUNDS = measure._MOST_ROUNDS  # before `measure_briefly` lowers it


class Drifting(Runtime):
    """A clock of parameters on a noisy machine, which `drift` slows down every 1,000 passes."""

    name, batch_size = "drifting", 100

    def __init__(self, drift: float, seed: int = 0) -> None:
        self.drift, self.passed = drift, 0
        self.random = np.random.default_rng(seed)

    def prepare(
        self, model: nn.Module, inputs: Any, device: torch.device
    ) -> Callable[[Any], Callable[[], float]]:
        return lambda images: lambda: self.seconds(model)

    def seconds(self, model: nn.Module) -> float:
        self.passed += 1
        noise = 1 + 0.05 * self.random.random()
        return exact(model) * noise * (1 + self.drift) ** (self.passed / 1000)


def exact(model: nn.Module) -> float:
    return 0.001 + sum(parameter.numel() for parameter in model.parameters()) * 1e-7


@pytest.fixture
def narrow() -> TableArchitecture:
    whole = table_architecture("vgg11", 10, 32, 3)
    return replace(whole, base_widths=tuple(width // 16 for width in whole.base_widths))


def solve(
    arch: TableArchitecture, clock: Runtime, budget: float | str, patch: pytest.MonkeyPatch
) -> float:
    """Return the share of the milliseconds of the whole network that the widths found take."""
    patch.setattr(timer, "choose_runtime", lambda *_: clock)
    law = nsopt.uniform_curve(arch.base_widths)
    found = nsopt.solve_measured_widths(arch, law, budget, device="cpu")
    return exact(arch.build(found.widths)) / exact(arch.build(arch.base_widths))


@pytest.mark.parametrize("drift", [-0.3, 0.0, 0.5])
def test_a_percentage_holds_while_the_machine_becomes_slower_or_faster(
    narrow: TableArchitecture, drift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0.45 < solve(narrow, Drifting(drift), "50%", monkeypatch) <= 0.5


def test_a_percentage_is_one_of_the_clock_that_measures(narrow: TableArchitecture) -> None:
    elsewhere = narrow.with_latency(LinearCost("latency", narrow.cost("macs"), 1e-3))
    law, base = nsopt.uniform_curve(narrow.base_widths), narrow.build(narrow.base_widths)
    found = nsopt.solve_measured_widths(
        elsewhere, law, "50%", measure=lambda model, _: 1000 * exact(model), device="cpu"
    )
    assert 0.4 < exact(narrow.build(found.widths)) / exact(base) <= 0.5


def test_a_number_of_milliseconds_does_not_follow_the_machine(
    narrow: TableArchitecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = 500 * exact(narrow.build(narrow.base_widths))
    assert solve(narrow, Drifting(0.5), half, monkeypatch) < 0.45


@pytest.mark.parametrize("budget", ["50", "0%", "100%", "half", 0.0, float("nan")])
def test_an_invalid_budget_is_refused(narrow: TableArchitecture, budget: float | str) -> None:
    with pytest.raises(NsoptError, match=r"a percentage must be|a number of milliseconds above 0"):
        nsopt.solve_measured_widths(narrow, nsopt.uniform_curve(narrow.base_widths), budget)


def share_of(network: nn.Module, beside: Beside, seconds: float = 30.0) -> float:
    share = beside.measure(beside.load(network), seconds).share
    assert share is not None
    return share


def test_a_share_is_cautious() -> None:
    small, whole = nn.Linear(100, 100), nn.Linear(100, 500)
    true = exact(small) / exact(whole)
    shares = [
        share_of(small, Beside(whole, IMAGES, CPU, Drifting(0.2, seed), (0, 80, 40)))
        for seed in range(30)
    ]
    assert all(share >= true for share in shares)
    assert np.mean(shares) < 1.02 * true


class Busy(Drifting):
    """Other programs double the time in the mean."""

    def seconds(self, model: nn.Module) -> float:
        return super().seconds(model) * (1 + self.random.exponential())


class Counting(Drifting):
    """Notes which networks it loads."""

    def __init__(self) -> None:
        super().__init__(0)
        self.loaded: list[nn.Module] = []

    def prepare(
        self, model: nn.Module, inputs: Any, device: torch.device
    ) -> Callable[[Any], Callable[[], float]]:
        self.loaded.append(model)
        return super().prepare(model, inputs, device)


def test_the_whole_network_is_loaded_once() -> None:
    clock, whole = Counting(), nn.Linear(100, 500)
    beside = Beside(whole, IMAGES, CPU, clock, (0, 80, 40))
    networks = [nn.Linear(100, 100), nn.Linear(100, 200)]
    for network in networks:
        share_of(network, beside)
    assert clock.loaded == [networks[0], whole, networks[1]]


def test_a_busy_machine_is_measured_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_MOST_ROUNDS", _MOST_ROUNDS)
    small, whole = nn.Linear(100, 100), nn.Linear(100, 500)
    passes = []
    for clock in Drifting(0), Busy(0):
        share = share_of(small, Beside(whole, IMAGES, CPU, clock, (0, 20, 10)))
        assert 1 <= share / (exact(small) / exact(whole)) < 1.3
        passes.append(clock.passed)
    assert passes == [40, 640]


def test_a_glance_takes_few_passes_and_is_no_bound() -> None:
    small, whole, shares = nn.Linear(100, 100), nn.Linear(100, 500), list[float]()
    for seed in range(30):
        clock = Busy(0, seed)
        beside = Beside(whole, IMAGES, CPU, clock, (0, 20, 10))
        shares.append(beside.measure(beside.load(small), is_brief=True).share or 0.0)
        assert clock.passed == 40
    assert 0.9 < np.mean(shares) / (exact(small) / exact(whole)) < 1.1


class Overloaded(Busy):
    """A hundred times slower, as where other programs hold the processors of some threads."""

    def seconds(self, model: nn.Module) -> float:
        return 100 * super().seconds(model)


def test_an_overloaded_machine_is_not_measured_for_minutes() -> None:
    clock = Overloaded(0)
    beside = Beside(nn.Linear(100, 500), IMAGES, CPU, clock, (0, 20, 10))
    share = share_of(nn.Linear(100, 100), beside, seconds=1.0)
    assert clock.passed <= 20  # at most two passes of each in five rounds
    assert 0.5 < share / (exact(nn.Linear(100, 100)) / exact(nn.Linear(100, 500))) < 4
    clock.passed = 0
    beside.measure(beside.load(nn.Linear(100, 100)), seconds=1.0, is_brief=True)
    assert clock.passed <= 12


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_busy_machine_is_reported_once_and_before_networks_are_timed_for_long(
    narrow: TableArchitecture, is_busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "seconds_waited", lambda: 0.0)
    clock, hearer = (Busy if is_busy else Drifting)(0), Listener()
    monkeypatch.setattr(timer, "choose_runtime", lambda *_: clock)
    law = nsopt.uniform_curve(narrow.base_widths)
    passed: list[int] = []
    monkeypatch.setattr(hearer, "message", lambda text: passed.append(clock.passed))
    nsopt.solve_measured_widths(narrow, law, "50%", device="cpu", progress=hearer)
    assert len(passed) == is_busy
    assert all(number <= sum(timer._ALONE[:2]) for number in passed)


def test_the_bound_of_a_median_is_above_it_in_all_but_one_case_of_1000() -> None:
    random = np.random.default_rng(0)
    bounds = [bound_median(random.exponential(size=40)) for _ in range(4000)]
    assert 0 < np.mean(np.array(bounds) < np.log(2)) < 0.004
    assert bound_median(np.array([3.0, 1.0])) == 3.0


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


def test_the_solver_finds_the_widths_that_were_timed(narrow: TableArchitecture) -> None:
    arch = narrow.with_latency(FasterInBlocks())
    law, limits = (
        nsopt.uniform_curve(arch.base_widths),
        Limits(max_width=arch.base_widths, fill=True),
    )
    asked = measured_budget.MeasuredBudget(arch, law, LATENCY, 50.0, limits)
    for aim in range(20, 80):
        widths, predicted, _ = asked.propose(aim)
        cost = LATENCY.cost(asked.corrected(predicted))
        assert tuple(solve_widths(law, cost, asked.budget, *limits).widths.tolist()) == widths
        assert predicted <= aim


@pytest.mark.parametrize("predicted", [0.1, 1.0, 10.0], ids=["below", "same", "above"])
def test_only_the_budget_that_stops_the_network_binds(
    narrow: TableArchitecture, predicted: float
) -> None:
    """Whatever is predicted in place of the milliseconds that were measured."""
    macs, params = (cost(narrow.base_widths) for cost in map(narrow.cost, ("macs", "params")))
    arch = narrow.with_latency(LinearCost("latency", narrow.cost("macs"), predicted / float(macs)))
    law = nsopt.uniform_curve(arch.base_widths)
    for limit, binding in ((params / 4, "params"), (params, "latency")):
        metric = get_metric(f"params={round(limit)},latency=1ms")
        asked = measured_budget.MeasuredBudget(arch, law, metric, 1.0, Limits())
        of_params = solve_widths(law, arch.cost("params"), round(limit)).widths.tolist()
        half = solve_widths(law, arch.cost("macs"), macs / 2).widths.tolist()
        widths = tuple(of_params if binding == "params" else half)
        kept = solve_widths(law, metric.cost(asked.keeping(widths)), 1.0)
        assert tuple(kept.widths.tolist()) == widths
        assert kept.binding is not None
        assert metric.parts[kept.binding].name == binding
