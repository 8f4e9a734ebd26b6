"""Rounding of widths at budgets in milliseconds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsopt.compression.budgets import budgets_of, read_words
from nsopt.compression.latency import Solver, with_fast_multiple
from nsopt.compression.pipeline import prepare
from nsopt.data.images import ImageData
from nsopt.latency.allowance import Allowance
from nsopt.latency.bisection import Tried, bisect_widths
from nsopt.latency.learn import MacsLatency
from nsopt.latency.measure import CPU
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.multiples import _count_macs, choose_multiples, multiple_per_layer
from nsopt.latency.runtime import TORCH, Runtime, choose_runtime
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture, TableArchitecture
from nsopt.progress import Silent
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.session.presets import StudySettings
from nsopt.session.session import start_session
from nsopt.session.subject import Subject
from tests.compression.test_compress import SETTINGS
from tests.study.test_comparison import Listener, make_workspace

PHONE = choose_runtime("torch", measure=lambda model, images: 1.0)


def with_linear_latency(narrow: TableArchitecture, constant: float) -> Architecture:
    """VGG11, a quarter as wide as usual: 10 ms, of which a constant does not depend on MACs."""
    arch = replace(narrow, base_widths=tuple(4 * width for width in narrow.base_widths))
    macs = MACS.cost(arch)
    slope = (10 - constant) / float(macs(arch.base_widths))
    return arch.with_latency(MacsLatency(LATENCY.name, macs, slope, constant))


@pytest.fixture
def arch(narrow: TableArchitecture) -> Architecture:
    return with_linear_latency(narrow, constant=0.5)


def in_blocks(widths: Sequence[int], block: int, model: MacsLatency) -> float:
    """Milliseconds on a device that computes channels in blocks."""
    return float(model([-(-width // block) * block for width in widths]))


@pytest.fixture(autouse=True)
def block(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The block of the device that times networks; it can be replaced."""
    found = [16]

    def solve(timer: Timer, asked: MeasuredBudget, is_careful: bool = True) -> Tried:
        model = asked.arch.latency
        assert isinstance(model, MacsLatency)
        return bisect_widths(
            asked.propose, lambda w: in_blocks(w, found[0], model), asked.milliseconds
        )

    monkeypatch.setattr(Timer, "solve", solve)
    return found


def choose(
    arch: Architecture,
    *words: str,
    settings: StudySettings = SETTINGS,
    runtime: Runtime = TORCH,
    stored: tuple[dict[str, Any], ...] = (),
) -> StudySettings:
    budgets = budgets_of(read_words(words or ("latency=50%",)), arch)
    timer = Timer(CPU, runtime, Listener())
    return with_fast_multiple(settings, budgets, arch, stored, timer)


def test_only_budgets_in_milliseconds_are_rounded(arch: Architecture) -> None:
    settings = choose(arch, "macs=50%", "macs=50%,latency=5ms")
    assert settings.rounding(LATENCY) == ((8, *[16] * 7), 1)
    assert settings.rounding(MACS) == (1, 1)
    assert choose(arch, "macs=50%") == SETTINGS


def test_every_layer_can_be_halved(narrow: TableArchitecture) -> None:
    arch = replace(narrow, base_widths=(1, 3, 4, 15, 16, 31, 32, 33))
    assert multiple_per_layer(arch, 16) == (1, 1, 2, 4, 8, 8, 16, 16)
    assert multiple_per_layer(arch, 1) == (1,) * 8


def test_units_of_several_channels_are_rounded_to_multiples_of_channels(
    narrow: TableArchitecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = (1, 2, 3, 8, 12, 16, 64, 1)
    monkeypatch.setattr(TableArchitecture, "channels_per_unit", channels)
    arch = replace(narrow, base_widths=(64,) * 8)
    found = multiple_per_layer(arch, 16)
    assert found == (16, 8, 16, 2, 4, 1, 1, 16)
    assert all(own * unit % 16 == 0 for own, unit in zip(found, channels, strict=True))


def test_no_multiple_makes_a_budget_infeasible(
    arch: Architecture, narrow: TableArchitecture, block: list[int]
) -> None:
    block[0] = 1
    found = [choose(arch, f"latency={part}%").rounding(LATENCY)[0] for part in (50, 8, 7)]
    multiples = [max(np.atleast_1d(each)) for each in found]
    assert multiples == sorted(multiples, reverse=True)
    assert multiples[0] == 16
    assert multiples[-1] < 16
    slow = with_linear_latency(narrow, constant=4.99)
    assert choose(slow, "latency=50%").rounding(LATENCY)[0] == (1,) * 8


@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("percentage", [50, 30, 20])
def test_the_multiple_is_the_largest_that_allows_most_macs(
    arch: Architecture, block: list[int], size: int, percentage: int
) -> None:
    block[0] = size
    (budget,) = budgets_of(read_words([f"latency={percentage}%"]), arch)
    timer = Timer(CPU, TORCH, Silent())
    asked = [Solver(budget, arch, SETTINGS, timer).ask(uniform_curve(arch.base_widths))]
    found = {
        multiple: _count_macs(arch, asked, multiple_per_layer(arch, multiple), timer)
        for multiple in (16, 8, 4, 1)
    }
    chosen = max(choose_multiples(arch, asked, timer))
    assert found[chosen] > 0
    assert 1.02 * found[chosen] >= max(found.values())
    larger = [macs for multiple, macs in found.items() if multiple > chosen]
    assert all(1.02 * macs < max(found.values()) for macs in larger)


def test_half_of_the_chosen_multiples_fill_a_budget_better_along_some_laws(
    arch: Architecture, block: list[int]
) -> None:
    """Here along a law that narrows a single layer at first."""
    block[0], count, better = 1, MACS.cost(arch), 0
    timer, multiples = Timer(CPU, TORCH, Silent()), multiple_per_layer(arch, 16)
    law = uniform_curve(
        [width * (1 if layer == 4 else 8) for layer, width in enumerate(arch.base_widths)]
    )
    for part in range(85, 100):
        (budget,) = budgets_of(read_words([f"latency={part}%"]), arch)
        given = SETTINGS.updated(multiple_of={"latency": 16})
        chosen = SETTINGS.updated(multiple_of={"latency": multiples})
        coarse = Solver(budget, arch, given, timer).solve(law)
        widths = Solver(budget, arch, chosen, timer).solve(law)
        assert coarse[4] % 16 == 0
        assert widths[4] % 8 == 0
        assert count(widths) >= count(coarse)
        assert float(LATENCY.cost(arch)(widths)) <= budget.limit
        better += widths[4] % 16 == 8
    assert better


def test_every_question_takes_half_of_the_time_that_is_left() -> None:
    allowance = Allowance(8.0)
    for left in (8.0, 4.0, 2.0):
        is_over = allowance.share()
        assert not is_over()
        allowance._seconds = left / 2
        assert is_over()
    assert not Allowance().share()()
    assert Allowance(0.0).share()()


def test_multiples_take_half_of_the_time_for_measurements(
    arch: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (budget,) = budgets_of(read_words(["latency=50%"]), arch)
    timer = Timer(CPU, TORCH, Silent(), allowance=Allowance(10.0))
    asked = [Solver(budget, arch, SETTINGS, timer).ask(uniform_curve(arch.base_widths))]
    solve, tried = Timer.solve, []

    def solve_slowly(timer: Timer, asked: MeasuredBudget, is_careful: bool) -> Tried:
        timer.allowance._seconds -= 4.0
        tried.append(asked)
        return solve(timer, asked, is_careful)

    monkeypatch.setattr(Timer, "solve", solve_slowly)
    choose_multiples(arch, asked, timer)
    assert len(tried) == 2


def test_a_given_multiple_and_a_device_elsewhere_are_not_rounded_further(
    arch: Architecture,
) -> None:
    for own in (1, 3, {"macs": 8}):
        given = SETTINGS.updated(multiple_of=own)
        assert choose(arch, settings=given) == given
    assert choose(arch, runtime=PHONE) == SETTINGS


def test_the_multiple_of_stored_results_is_kept(arch: Architecture) -> None:
    four: dict[str, Any] = {"multiple_of": {"latency": 4}}
    assert choose(arch, stored=({}, four)).rounding(LATENCY)[0] == 4
    assert choose(arch, "macs=50%", stored=(four,)).rounding(LATENCY)[0] == 4
    assert choose(arch, stored=({"multiple_of": None},)) == SETTINGS
    assert choose(arch, stored=({"multiple_of": 3},)) == SETTINGS  # and the study refuses it


def test_the_same_command_rounds_to_the_same_multiple(
    arch: Architecture, digits: ImageData, tmp_path: Path, block: list[int]
) -> None:
    model = arch.build(arch.base_widths).eval()
    subject = Subject.of(arch, digits, SETTINGS, model)
    place, asked = make_workspace(tmp_path), read_words(["latency=50%"])

    def read_settings() -> StudySettings:
        with start_session(subject, place, Silent()) as begun:
            session, _ = prepare(begun, asked)
            return session.subject.settings

    first = read_settings()
    assert first.multiple_of == {"latency": (8, *[16] * 7)}
    block[0] = 1
    assert read_settings() == first
