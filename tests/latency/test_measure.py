"""Networks timed in turns, on a noisy, drifting or busy machine."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nsopt.latency import measure
from nsopt.latency.measure import CPU, Clock, measure_latencies
from nsopt.latency.record import Latency, distrust
from nsopt.latency.runtime import Runtime, Torch, draw_images
from nsopt.models.architecture import Architecture

IMAGES = torch.zeros(100, 3, 32, 32)
SMALL, WHOLE = nn.Linear(100, 100), nn.Linear(100, 500)
_ROUNDS = measure._FEWEST, measure._USUAL, measure._MOST  # before `measure_briefly` lowers them


class Drifting(Runtime):
    """A clock of parameters on a noisy machine, which `drift` slows down every 1,000 passes."""

    name, batch_size = "drifting", 100

    def __init__(self, drift: float, seed: int = 0) -> None:
        self.drift, self.passed = drift, 0
        self.random = np.random.default_rng(seed)
        self.loaded: list[nn.Module] = []

    def prepare(
        self, model: nn.Module, inputs: Any, device: torch.device
    ) -> Callable[[Any], Callable[[], float]]:
        self.loaded.append(model)
        return lambda images: lambda: self.seconds(model)

    def seconds(self, model: nn.Module) -> float:
        self.passed += 1
        noise = 1 + 0.05 * self.random.random()
        return exact(model) * noise * (1 + self.drift) ** (self.passed / 1000)


class Busy(Drifting):
    """Other programs double the time in the mean."""

    def seconds(self, model: nn.Module) -> float:
        return super().seconds(model) * (1 + self.random.exponential())


def exact(model: nn.Module) -> float:
    return 0.001 + sum(parameter.numel() for parameter in model.parameters()) * 1e-7


@pytest.fixture
def usual_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in zip(("_FEWEST", "_USUAL", "_MOST"), _ROUNDS, strict=True):
        monkeypatch.setattr(measure, name, count)


def time_small(runtime: Runtime) -> Latency:
    return measure_latencies([WHOLE, SMALL], IMAGES, CPU, runtime)[1]


@pytest.mark.usefixtures("usual_rounds")
@pytest.mark.parametrize("clock", [Drifting, Busy])
def test_the_bound_of_a_ratio_is_above_it_in_most_cases(clock: type[Drifting]) -> None:
    true = exact(SMALL) / exact(WHOLE)
    timed = [time_small(clock(0.2, seed)) for seed in range(40)]
    assert np.mean([latency.bound >= true for latency in timed]) >= 0.9
    assert np.mean([latency.ratio for latency in timed]) == pytest.approx(true, rel=0.02)
    assert np.mean([latency.bound for latency in timed]) < 1.5 * true


@pytest.mark.usefixtures("usual_rounds")
def test_a_busy_machine_takes_more_rounds_and_widens_the_spread() -> None:
    calm, busy = time_small(Drifting(0)), time_small(Busy(0))
    assert busy.repeats > 3 * calm.repeats
    assert busy.spread is not None
    assert calm.spread is not None
    assert busy.spread > 3 * calm.spread
    assert distrust([calm.spread, None, busy.spread]).startswith("Milliseconds of 1 of 3 networks")
    assert not distrust([calm.spread, None])


@pytest.mark.usefixtures("usual_rounds")
def test_networks_that_take_long_are_timed_in_few_rounds() -> None:
    class Slow(Drifting):
        def seconds(self, model: nn.Module) -> float:
            return 300 * super().seconds(model)

    clock = Slow(0)
    latency = time_small(clock)
    assert latency.repeats == _ROUNDS[0]
    assert clock.passed <= 2 * (measure._WARMUP + _ROUNDS[0])


def test_a_network_timed_alone_has_the_ratio_1() -> None:
    (latency,) = measure_latencies([WHOLE], IMAGES, CPU, Drifting(0))
    assert latency.ratio == 1
    assert latency.median_ms == pytest.approx(1000 * exact(WHOLE), rel=0.06)


def test_milliseconds_of_another_hour_are_those_of_the_whole_networks() -> None:
    clock = Drifting(0)
    whole, small = measure_latencies([WHOLE, SMALL], IMAGES, CPU, clock)
    clock.seconds = lambda model: 2 * exact(model)  # type: ignore[method-assign]
    later = time_small(clock).relative_to(whole)
    assert later.median_ms == pytest.approx(small.median_ms, rel=0.06)


def test_networks_are_timed_in_turns(narrow: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[nn.Module] = []

    def timed(model: nn.Module, images: torch.Tensor, device: torch.device) -> float:
        order.append(model)
        return 0.004

    monkeypatch.setattr("nsopt.latency.runtime._time_torch_pass", timed)
    networks = [narrow.build(narrow.base_widths) for _ in range(2)]
    images = draw_images(narrow.input_shape, 2)
    found = measure_latencies(networks, images, CPU, Torch(2), rounds=3)
    first, second = order[0], order[-1]
    warm = measure._WARMUP
    assert order == [first] * warm + [second] * warm + [first, first, second, second] * 3
    assert [latency.median_ms for latency in found] == [4, 4]
    assert found[0].repeats == 3  # the first pass of a round does not count


def test_garbage_collection_is_off_while_a_network_is_timed() -> None:
    class Asking(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            collecting.append(gc.isenabled())
            return images

    collecting: list[bool] = []
    measure_latencies([Asking()], torch.zeros(2, 3, 4, 4), CPU, Torch(2), rounds=2)
    tried = 2  # passes that choose the layout
    assert len(collecting) > tried
    assert not any(collecting[tried:])
    assert gc.isenabled()


def test_a_clock_needs_a_batch() -> None:
    with pytest.raises(Exception, match="batch_size >= 1"):
        Clock(IMAGES, CPU, Torch(0)).measure([lambda batch: lambda: 1.0])
