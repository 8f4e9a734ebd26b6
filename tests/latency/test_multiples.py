"""Multiples of widths that suit a device and a runtime."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import nsopt
from nsopt.latency.measure import CPU
from nsopt.latency.multiples import find_multiple
from nsopt.latency.runtime import OwnMeasure, choose_runtime
from tests.conftest import call_nsopt
from tests.study.test_comparison import Listener


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


def test_multiple_of_auto_rounds_widths_to_the_block_size_of_the_device(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    law, clock = tmp_path / "law.json", tmp_path / "board.py"
    clock.write_text("def time(module, images): return -(-module[0].out_channels // 4)\n")
    base = nsopt.get_architecture("vgg11").base_widths
    law.write_text(json.dumps(nsopt.uniform_curve(base).to_dict()))
    monkeypatch.chdir(tmp_path)
    asked = "widths", f"--law={law}", "--budgets=700k", "--multiple-of=auto"
    done = call_nsopt(*asked, "--measure=board:time", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(done.stdout)
    assert {width % 4 for width in row["widths"]} == {0}
    assert any(width % 8 for width in row["widths"])
    assert "--multiple-of auto is 4 here" in call_nsopt(*asked, "--measure=board:time").stdout
