"""Widths for a budget, chosen by timings of which none is repeated."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from nsopt import Architecture, NsoptError, uniform_curve
from nsopt.errors import NoWidthsError
from nsopt.latency.budget import MOST_TIMED, MeasuredBudget
from nsopt.latency.measure import CPU
from nsopt.latency.model import LatencyModel
from nsopt.latency.record import Latency, Store
from nsopt.latency.runtime import choose_runtime
from nsopt.latency.timer import Timer
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.scaling.solve import Limits
from tests.latency.test_measure import IMAGES, Drifting
from tests.rescaled import with_base_widths
from tests.study.test_comparison import Listener

_BUDGET = 4.0  # of 10 ms


@pytest.fixture
def asked(narrow: Architecture) -> MeasuredBudget:
    arch = with_base_widths(narrow, tuple(4 * width for width in narrow.base_widths))
    macs = MACS.cost(arch)
    none = np.zeros(len(arch.base_widths))
    model = LatencyModel(macs, 10 / float(macs(arch.base_widths)), none, 0.0)
    law = uniform_curve(arch.base_widths)
    return MeasuredBudget(arch.with_latency(model), law, LATENCY, _BUDGET, Limits())


def predict(asked: MeasuredBudget, model: nn.Module) -> float:
    """Return the milliseconds that a model of latency predicts for a network."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return float(LATENCY.cost(asked.arch)([module.out_channels for module in convolutions]))


def test_widths_that_another_process_found_first_count(asked: MeasuredBudget) -> None:
    class Late(Store):
        """Another process chooses widths while this one times networks."""

        def write(self, latency: Latency) -> None:
            super().write(latency)
            self.write_widths(asked.identify(timer.runtime), first)

    first = asked.propose(0.5 * _BUDGET).widths
    as_predicted = choose_runtime(lambda model, inputs: predict(asked, model))
    timer = Timer(CPU, as_predicted, Listener(), store=Late())
    assert asked.propose(_BUDGET).widths != first
    assert timer.find(asked) == first


def test_earlier_timings_say_where_the_next_ones_begin(asked: MeasuredBudget) -> None:
    """On a device where less depends on the widths than predicted."""
    timed = list[float]()

    def measure(model: nn.Module, inputs: object) -> float:
        predicted = predict(asked, model)
        timed.append(2 + 0.8 * predicted)
        return timed[-1]

    timer = Timer(CPU, choose_runtime(measure), Listener())
    first = timer.solve(asked)
    count = len(timed)
    law = uniform_curve([width + 1 for width in asked.arch.base_widths])
    again = timer.solve(replace(asked, law=law))
    assert 0.9 * _BUDGET < again.measured <= _BUDGET
    assert 0.9 * _BUDGET < first.measured <= _BUDGET
    assert len(timed) - count < count


def test_no_network_is_timed_or_loaded_twice(asked: MeasuredBudget) -> None:
    clock = Drifting(0)
    timer = Timer(CPU, clock, Listener(), IMAGES)
    first = timer.find(asked)
    assert len(clock.loaded) <= 1 + MOST_TIMED
    loaded = list(clock.loaded)
    assert timer.find(asked) == first
    assert timer.time(asked.arch, first) == timer.read()[first]
    assert clock.loaded == loaded
    again = timer.time(asked.arch, first, again=True)
    assert again.when > timer.read()[asked.arch.base_widths].when
    assert len(clock.loaded) == len(loaded) + 1


def test_a_budget_below_the_narrowest_network_is_one_line(asked: MeasuredBudget) -> None:
    runtime = choose_runtime(lambda model, inputs: 5 + predict(asked, model))
    timer = Timer(CPU, runtime, Listener())
    with pytest.raises(NoWidthsError, match="no widths fit a budget of 1 ms per batch: the smal"):
        timer.solve(replace(asked, limit=1.0))


def test_what_was_timed_before_a_function_fails_is_kept(asked: MeasuredBudget) -> None:
    most, networks = [2], dict[int, None]()

    def measure(model: nn.Module, inputs: object) -> float:
        networks[sum(parameter.numel() for parameter in model.parameters())] = None
        if len(networks) > most[0]:
            raise OSError("no phone\nconnected")
        return 1 + 2 * predict(asked, model)

    timer = Timer(CPU, choose_runtime(measure), Listener())
    with pytest.raises(NsoptError, match="could not measure a network: OSError: no phone conn"):
        timer.solve(asked)
    known = dict(timer.read())
    assert len(known) == most[0]
    most[0] = 100
    timer.solve(asked)
    assert {widths: timer.read()[widths] for widths in known} == known
