"""What is said of widths when the time for measurements is over."""

import math
from dataclasses import replace

import pytest
from torch import nn

from nsopt.errors import NoWidthsError
from nsopt.latency import timer as timer_module
from nsopt.latency.allowance import Allowance
from nsopt.latency.learn import MacsLatency
from nsopt.latency.measure import CPU
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.runtime import choose_runtime
from nsopt.latency.sittings import Latency
from nsopt.latency.store import Store
from nsopt.latency.timer import Timer
from nsopt.models.architecture import TableArchitecture
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.scaling.solve import Limits
from tests.latency.test_measured_budget import IMAGES, Counting
from tests.study.test_comparison import Listener

_BUDGET = 4.0  # of 10 ms


@pytest.fixture
def asked(narrow: TableArchitecture) -> MeasuredBudget:
    arch = replace(narrow, base_widths=tuple(4 * width for width in narrow.base_widths))
    macs = MACS.cost(arch)
    model = MacsLatency(LATENCY.name, macs, 10 / float(macs(arch.base_widths)), 0.0)
    law = uniform_curve(arch.base_widths)
    return MeasuredBudget(arch.with_latency(model), law, LATENCY, _BUDGET, Limits())


def predict(asked: MeasuredBudget, model: nn.Module) -> float:
    """Return the milliseconds that a model of latency predicts for a network."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return float(LATENCY.cost(asked.arch)([module.out_channels for module in convolutions]))


def test_measured_widths_come_with_their_spread(asked: MeasuredBudget) -> None:
    times = iter([3.0, 3.3, 3.0])

    def measure(model: nn.Module, inputs: object) -> float:
        timer.allowance._seconds = 1.0
        return next(times)

    listener = Listener()
    timer = Timer(CPU, choose_runtime("torch", measure), listener, allowance=Allowance(10.0))
    found = timer.solve(asked)
    assert len(found.measured) == 1
    (message,) = listener.messages
    assert message.startswith("4 ms: 3.225 ms ±10%, as timed in the time that there was: ")


def test_predicted_widths_come_with_the_error_of_predictions(asked: MeasuredBudget) -> None:
    listener, left = Listener(), [10.0]

    def measure(model: nn.Module, inputs: object) -> float:
        timer.allowance._seconds = left[0]
        return 2 * _BUDGET

    timer = Timer(CPU, choose_runtime("torch", measure), listener, allowance=Allowance(10.0))
    base = asked.arch.base_widths
    timer.time(asked.arch, base)
    timer.time(asked.arch, tuple(math.ceil(0.8 * width) for width in base))
    left[0] = 0.1
    assert not timer.solve(asked).measured
    (message,) = listener.messages
    assert message.startswith("4 ms: predicted ±")
    assert ": the time for measurements is over (widths " in message


def test_a_machine_that_is_too_busy_leaves_predicted_widths(
    asked: MeasuredBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timer_module, "was_busy", lambda taken: True)
    asked = replace(asked, beside_whole=True)
    slow, listener = choose_runtime("torch", lambda model, inputs: 2 * _BUDGET), Listener()
    found = Timer(CPU, slow, listener, allowance=Allowance(10.0)).solve(asked)
    assert not found.measured
    assert 0.8 * _BUDGET < found.predicted <= 0.9 * _BUDGET
    (message,) = listener.messages
    assert "the machine is too busy to time them" in message
    with pytest.raises(NoWidthsError, match="when it is idle"):
        Timer(CPU, slow, listener).solve(asked)


def test_widths_that_another_process_found_first_count(asked: MeasuredBudget) -> None:
    class Late(Store):
        """Another process chooses widths while this one times networks."""

        def write_timing(self, latency: Latency) -> None:
            super().write_timing(latency)
            self.write_choice(asked.identify(timer.runtime), first)

    listener, first = Listener(), asked.propose(0.5 * _BUDGET).widths
    as_predicted = choose_runtime("torch", lambda model, inputs: predict(asked, model))
    timer = Timer(CPU, as_predicted, listener, store=Late())
    assert asked.propose(_BUDGET).widths != first
    assert timer.correct(asked) is not None
    assert timer.store.read_choice(asked.identify(timer.runtime)) == first
    shown = "-".join(map(str, first))
    assert listener.messages[-1] == f"another process found {shown} first: all take these"


def test_earlier_timings_say_where_the_next_ones_begin(asked: MeasuredBudget) -> None:
    """On a device that takes twice as long as predicted."""
    timed = list[float]()

    def measure(model: nn.Module, inputs: object) -> float:
        timed.append(2 * predict(asked, model))
        return timed[-1]

    timer = Timer(CPU, choose_runtime("torch", measure), Listener())
    timer.time(asked.arch, asked.arch.base_widths)
    timed.clear()
    timer.solve(asked)
    assert 0.9 * _BUDGET < timed[0] <= _BUDGET


def test_a_glance_is_enough_where_no_care_is_needed_and_never_confirms(
    asked: MeasuredBudget,
) -> None:
    asked = replace(asked, beside_whole=True, budget=9.0)
    clock = Counting()
    timer = Timer(CPU, clock, Listener(), IMAGES)
    first = timer.solve(asked, is_careful=False)
    glances = len(clock.loaded)
    assert timer.solve(asked, is_careful=False).widths == first.widths
    assert len(clock.loaded) == glances, "no network is timed twice"
    assert not timer.store.read_timings(first.widths)
    careful = timer.solve(asked)
    assert len(timer.store.read_timings(careful.widths)) >= 2
