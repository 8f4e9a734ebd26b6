"""Rounding of widths at budgets in milliseconds."""

from typing import Any

import pytest

from nsopt.compression import rounding
from nsopt.compression.rounding import with_fast_multiple
from nsopt.latency.runtime import TORCH, Runtime, choose_runtime
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.study.presets import StudySettings
from tests.compression.test_compress import SETTINGS
from tests.study.test_comparison import Listener

TIMED = ("latency=50%",)
PHONE = choose_runtime("torch", measure=lambda model, images: 1.0)


def choose(
    settings: StudySettings = SETTINGS,
    words: tuple[str, ...] = TIMED,
    widths: tuple[int, ...] = (32, 64),
    runtime: Runtime = TORCH,
    stored: tuple[dict[str, Any], ...] = (),
) -> StudySettings:
    return with_fast_multiple(settings, words, widths, runtime, stored, Listener())


@pytest.fixture(autouse=True)
def _fastest_is_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "find_multiple", lambda device, runtime, progress: 16)


def test_only_budgets_in_milliseconds_are_rounded_to_the_fastest_multiple() -> None:
    settings = choose(words=("macs=50%", "macs=50%,latency=5ms"))
    assert settings.rounding(LATENCY) == (16, 1)
    assert settings.rounding(MACS) == (1, 1)
    assert choose(words=("macs=50%",)) == SETTINGS


@pytest.mark.parametrize(("narrowest", "multiple"), [(32, 16), (31, 8), (8, 4), (6, 2)])
def test_at_the_multiple_every_layer_can_be_halved(narrowest: int, multiple: int) -> None:
    assert choose(widths=(64, narrowest)).rounding(LATENCY)[0] == multiple
    assert choose(widths=(64, 3)) == choose(widths=(64, 1)) == SETTINGS


def test_a_given_multiple_and_a_device_elsewhere_are_not_rounded_further() -> None:
    for own in (1, 3, {"macs": 8}):
        given = SETTINGS.updated(multiple_of=own)
        assert choose(given) == given
    assert choose(runtime=PHONE) == SETTINGS


def test_the_multiple_of_a_stored_compression_is_kept() -> None:
    eight: dict[str, Any] = {"multiple_of": {"latency": 8}}
    assert choose(stored=(eight,)).rounding(LATENCY)[0] == 8
    assert choose(words=("macs=50%",), stored=(eight,)).rounding(LATENCY)[0] == 8
    assert choose(stored=({"multiple_of": None},)) == SETTINGS
    assert choose(stored=({"multiple_of": 3},)) == SETTINGS  # refused later, as other settings are
