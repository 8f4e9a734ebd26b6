"""VGG11 with a quarter of its filters, which a command searches and trains in a moment."""

from collections.abc import Sequence
from functools import cache

import pytest

from nsopt.models import registry, vgg
from nsopt.storage import engine
from tests.forked import run_module

_make_slim = cache(registry._make_own.__wrapped__)


def slim_vgg11(patch: pytest.MonkeyPatch) -> None:
    """Make the architecture `vgg11` of this process slim, and keep the other one as it was."""
    patch.setattr(vgg, "_BASE_WIDTHS", tuple(width // 4 for width in vgg._BASE_WIDTHS))
    patch.setattr(registry, "_make_own", _make_slim)


def run_slim(module: str, arguments: Sequence[str]) -> None:
    """Run `python -m module arguments`, where `vgg11` is slim."""
    slim_vgg11(pytest.MonkeyPatch())
    run_module(module, arguments)


def run_impatiently(module: str, arguments: Sequence[str]) -> None:
    """Run that command, and consider other processes dead sooner."""
    patch = pytest.MonkeyPatch()
    patch.setattr(engine, "HEARTBEAT_SECONDS", 1.0)
    patch.setattr(engine, "POLL_SECONDS", 0.25)
    patch.setattr(engine, "DEAD_AFTER_LOOKS", 16)
    run_slim(module, arguments)
