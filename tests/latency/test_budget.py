"""Budgets in milliseconds hold as measured, bisection, and multiples of widths."""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from torch import nn

import nsopt
from nsopt import Architecture, NsoptError, PowerLaw, get_architecture, solve_widths
from nsopt.errors import NoWidthsError
from nsopt.latency import timer
from nsopt.latency.budget import MOST_TIMED, MeasuredBudget, Tried, Widths, find_widest
from nsopt.latency.measure import CPU
from nsopt.latency.multiples import find_multiple
from nsopt.latency.runtime import OwnMeasure, Runtime, choose_runtime
from nsopt.scaling.cost import LinearCost, unwrap
from nsopt.scaling.metric import LATENCY, get_metric
from nsopt.scaling.solve import Limits
from tests.conftest import call_nsopt
from tests.latency.test_measure import Drifting, exact
from tests.rescaled import with_base_widths
from tests.study.test_comparison import Listener


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
    law = nsopt.uniform_curve(arch.base_widths)
    limits = Limits(max_width=arch.base_widths, fill=True)
    asked = MeasuredBudget(arch, law, LATENCY, 50.0, limits)
    for aim in range(20, 80):
        widths, predicted, _ = asked.propose(aim)
        cost = LATENCY.cost(asked.corrected(predicted))
        assert tuple(solve_widths(law, cost, asked.limit, *limits).widths.tolist()) == widths
        assert predicted <= aim


@pytest.mark.parametrize("predicted", [0.1, 1.0, 10.0], ids=["below", "same", "above"])
def test_only_budgets_that_stop_the_network_bind(narrow: Architecture, predicted: float) -> None:
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


BASE = np.array([24, 40, 64])
CAP = 3 * BASE


def products(widths: object) -> np.ndarray:
    """A latency model without the constant, the blocks and the speed of the machine."""
    w = np.asarray(widths, dtype=np.float64)
    return w[..., 0] * w[..., 1] + w[..., 1] * w[..., 2]


def propose_along(law: PowerLaw, speed: float, budget: float) -> Tried:
    fit = solve_widths(law, lambda w: products(w) / speed, budget, max_width=CAP)
    return Tried(tuple(fit.widths.tolist()), float(fit.cost))


class Clock:
    """Milliseconds of networks: a constant, whole blocks of channels, and noise that only adds."""

    def __init__(self, constant: float, block: int, noise: float, seed: int) -> None:
        self.constant, self.block, self.noise = constant, block, noise
        self.random = np.random.default_rng(seed)
        self.log: list[tuple[Widths, float]] = []

    def exactly(self, widths: Widths) -> float:
        padded = np.ceil(np.array(widths) / self.block) * self.block
        return self.constant + float(products(padded)) / 1000

    def __call__(self, widths: Widths) -> float:
        taken = self.exactly(widths) * (1 + self.noise * self.random.random())
        self.log.append((widths, taken))
        return taken


def largest_within(law: PowerLaw, speed: float, clock: Clock, budget: float) -> float | None:
    """Return the prediction for the largest of 1000 networks that takes at most `budget`."""
    sizes = np.geomspace(1.001 * products(np.ones(3)), products(CAP), 1000) / speed
    fits = solve_widths(law, lambda w: products(w) / speed, sizes, max_width=CAP)
    taken = clock.constant + products(fits.widths) / 1000
    return float(np.asarray(fits.cost)[taken <= budget][-1]) if (taken <= budget).any() else None


laws = st.lists(st.floats(0.3, 1.7), min_size=3, max_size=3).map(
    lambda slopes: PowerLaw(BASE.astype(float), np.array(slopes), np.ones(3))
)
clocks = st.builds(
    Clock,
    constant=st.floats(0, 3),
    block=st.sampled_from([1, 4, 16]),
    noise=st.sampled_from([0.0, 0.02, 0.2]),
    seed=st.integers(0, 100),
)


@settings(max_examples=40)
@given(laws, clocks, st.floats(0.5, 20), st.floats(100, 10_000))
def test_bisection_never_returns_a_network_above_the_budget(
    law: PowerLaw, clock: Clock, budget: float, speed: float
) -> None:
    propose = partial(propose_along, law, speed)
    try:
        found = find_widest(propose, clock, budget)
    except NoWidthsError:
        assert all(taken > budget for _, taken in clock.log)
        return
    finally:
        assert len(clock.log) <= MOST_TIMED
    assert (found.widths, found.measured) in clock.log
    assert found.measured <= budget
    assert propose(found.predicted).widths == found.widths


@settings(max_examples=40)
@given(laws, st.floats(0, 3), st.floats(0.5, 20), st.floats(100, 10_000))
def test_bisection_finds_nearly_the_largest_network_that_fits(
    law: PowerLaw, constant: float, budget: float, speed: float
) -> None:
    """Where the constant leaves a fifth of the budget: eight do not find the way to less."""
    assume(constant < 0.8 * budget)
    clock = Clock(constant, 1, 0.0, 0)
    propose = partial(propose_along, law, speed)
    largest = largest_within(law, speed, clock, budget)
    if largest is None:
        with pytest.raises(NoWidthsError, match="no widths fit a budget of"):
            find_widest(propose, clock, budget)
        return
    found = find_widest(propose, clock, budget)
    assert found.predicted >= 0.9 * largest or found.measured >= 0.93 * budget  # eight timings


def test_a_good_prediction_takes_one_measurement() -> None:
    law = PowerLaw(BASE.astype(float), np.ones(3), np.ones(3))
    propose = partial(propose_along, law, 1000.0)
    clock = Clock(1.0, 1, 0.0, 0)
    found = find_widest(propose, clock, 12.0)
    clock.log.clear()
    assert find_widest(propose, clock, 12.0, aim=found.predicted).widths == found.widths
    assert len(clock.log) == 1


class BlockClock:
    """A device that computes filters in blocks; a filter in a block may cost a little, too."""

    def __init__(self, block: int, per_filter: float = 0.0, per_pass: float = 0.0) -> None:
        self.block, self.per_filter, self.per_pass = block, per_filter, per_pass
        self.timed = 0

    def __call__(self, module: nn.Module, images: torch.Tensor) -> float:
        self.timed += 1
        width: int = module[0].out_channels  # type: ignore[index]
        blocks = math.ceil(width / self.block)
        return self.per_pass + self.block * blocks + self.per_filter * width


class Here(OwnMeasure):
    """A runtime of this machine that always takes the same time."""

    is_here = True


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nsopt" / "multiples"


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16])
def test_the_block_size_of_a_device_is_measured_once_and_cached(block: int, cache: Path) -> None:
    clock = BlockClock(block)
    runtime = Here("clock:time", clock)
    assert find_multiple(CPU, runtime, Listener()) == block
    timed = clock.timed
    assert timed > 0
    assert find_multiple(CPU, runtime, Listener()) == block
    assert clock.timed == timed
    (file,) = cache.iterdir()
    file.write_text("{}")
    assert find_multiple(CPU, runtime, Listener()) == block
    assert clock.timed == 2 * timed


def test_what_a_function_measures_is_not_cached_under_its_name(cache: Path) -> None:
    for block in (4, 16):
        runtime = OwnMeasure("board:time", BlockClock(block))
        assert find_multiple(CPU, runtime, Listener()) == block
    assert not cache.exists()


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.usefixtures("cache")
def test_filters_that_cost_little_and_passes_that_cost_much_change_nothing(block: int) -> None:
    runtime = choose_runtime(BlockClock(block, per_filter=0.2, per_pass=50.0))
    assert find_multiple(CPU, runtime, Listener()) == block


def test_multiple_of_auto_rounds_widths_to_the_multiple_of_the_device(
    cache: Path, tmp_path: Path
) -> None:
    law = tmp_path / "law.json"
    base = nsopt.get_architecture("vgg11").base_widths
    law.write_text(json.dumps(nsopt.uniform_curve(base).to_dict()))
    asked = "widths", f"--law={law}", "--budgets=700k"
    assert call_nsopt(*asked, "--multiple-of=auto").returncode == 0
    (file,) = cache.iterdir()
    file.write_text("4")
    again, given = (call_nsopt(*asked, f"--multiple-of={word}", "--json") for word in ("auto", "4"))
    assert json.loads(again.stdout) == json.loads(given.stdout)
