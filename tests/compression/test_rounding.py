"""Rounding of widths at budgets in milliseconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsopt import Architecture, ImageData, Silent, StudySettings
from nsopt.compression.budgets import budgets_of, read_words, with_fast_multiple
from nsopt.compression.pipeline import prepare
from nsopt.latency.measure import CPU
from nsopt.latency.model import LatencyModel
from nsopt.latency.multiples import suit
from nsopt.latency.runtime import TORCH, Runtime, choose_runtime
from nsopt.latency.timer import Timer
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.session.session import start_session
from nsopt.session.subject import Subject
from tests.compression.test_compress import SETTINGS
from tests.rescaled import with_base_widths
from tests.study.test_comparison import Listener, make_workspace

PHONE = choose_runtime(lambda model, images: 1.0)


def with_linear_latency(narrow: Architecture, constant: float) -> Architecture:
    """VGG11, a quarter as wide as usual: 10 ms, of which a constant does not depend on MACs."""
    arch = with_base_widths(narrow, tuple(4 * width for width in narrow.base_widths))
    macs = MACS.cost(arch)
    slope = (10 - constant) / float(macs(arch.base_widths))
    none = np.zeros(len(arch.base_widths))
    return arch.with_latency(LatencyModel(macs, slope, none, constant))


@pytest.fixture
def arch(narrow: Architecture) -> Architecture:
    return with_linear_latency(narrow, constant=0.5)


@pytest.fixture(autouse=True)
def block(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The multiple of the device; it can be replaced."""
    found = [16]
    monkeypatch.setattr("nsopt.compression.budgets.find_multiple", lambda *_: found[0])
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
    assert settings.rounding(LATENCY) == (8, 1)
    assert settings.rounding(MACS) == (1, 1)
    assert choose(arch, "macs=50%") == SETTINGS


def test_every_layer_can_be_halved(narrow: Architecture) -> None:
    for narrowest, multiple in ((2, 1), (3, 1), (4, 2), (15, 4), (16, 8), (31, 8), (32, 16)):
        arch = with_base_widths(narrow, (64, narrowest, *[64] * 6))
        assert suit(arch, 16) == multiple
        assert suit(arch, 1) == 1


def test_units_of_several_channels_are_rounded_to_multiples_of_channels(
    narrow: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = with_base_widths(narrow, (64,) * 8)
    for channels, multiple in ((2, 8), (3, 16), (8, 2), (12, 4), (64, 1)):
        monkeypatch.setattr(Architecture, "channels_per_unit", (channels,) * 8)
        assert suit(arch, 16) == multiple


def test_no_multiple_makes_a_budget_infeasible(arch: Architecture, narrow: Architecture) -> None:
    found = [choose(arch, f"latency={part}%").rounding(LATENCY)[0] for part in (50, 8, 6)]
    assert found[0] == 8
    assert found[-1] in {1, 2, 4}
    slow = with_linear_latency(narrow, constant=4.99)
    assert choose(slow, "latency=50%").rounding(LATENCY)[0] == 1


def test_given_multiples_and_devices_elsewhere_are_not_rounded(arch: Architecture) -> None:
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
    subject = Subject.of(arch, digits, SETTINGS.updated(start=model))
    place, asked = make_workspace(tmp_path), read_words(["latency=50%"])

    def read_settings() -> StudySettings:
        begun = start_session(subject, place, Silent())
        session, _ = prepare(begun, asked)
        return session.subject.settings

    first = read_settings()
    assert first.multiple_of == {"latency": 8}
    block[0] = 1
    assert read_settings() == first
