"""`precision="auto"` is decided by timing a step of the network, not by the processor's name."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nsopt
from nsopt import Architecture, ImageData, TrainSettings
from nsopt.compute import device
from nsopt.compute.device import Compute
from nsopt.training import precision
from nsopt.training.precision import choose_compute, faster
from tests.networks import layers

BF16 = Compute(torch.device("cpu"), bf16=True)


@pytest.fixture(autouse=True)
def _nothing_is_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that says that it computes bf16 natively."""
    monkeypatch.setattr(device, "_multiplies_bf16", lambda device: True)


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (2.4, "fp32"), (1.0, "fp32")])
def test_auto_takes_the_faster(bf16: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step is slow, and the machine becomes slower: neither decides."""
    monkeypatch.setattr(precision, "_TURNS", 2)
    slowing, asked = count(10, -1), list[str]()

    def time(compute: Compute) -> float:
        asked.append(compute.precision)
        return (bf16 if compute.bf16 else 1.0) + max(next(slowing) - 8, 0)

    assert faster(BF16, time).precision == chosen
    assert asked == ["fp32", "bf16"] * 2


def test_nothing_is_timed_for_a_given_precision_or_without_native_bf16(
    narrow: Architecture, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "time_training_step", None)
    widths = narrow.base_widths
    for given in ("bf16", "fp32"):
        settings = TrainSettings(epochs=1, precision=given)
        assert choose_compute(settings, narrow, widths, digits).precision == given
    half = nsopt.trace(narrow.build(widths).bfloat16(), torch.rand(2, 1, 32, 32).bfloat16())
    for given in ("bf16", "auto"):
        settings = TrainSettings(epochs=1, precision=given)
        assert not choose_compute(settings, half, half.base_widths, digits).bf16
    monkeypatch.setattr(device, "_multiplies_bf16", lambda device: False)
    assert not choose_compute(TrainSettings(epochs=1), narrow, widths, digits).bf16


@pytest.mark.usefixtures("native")
def test_steps_of_real_networks_are_timed_in_both(
    narrow: Architecture, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images, and of any task with its own batches and loss."""
    batches = [(digits.train.images[:8] / 255, digits.train.labels[:8])]
    before, seconds = torch.get_rng_state(), dict[str, float]()
    real = precision._time_batch

    def time(*arguments: Any) -> float:
        seconds[arguments[-1].precision] = real(*arguments)
        return seconds[arguments[-1].precision]

    monkeypatch.setattr(precision, "_time_batch", time)
    for task in (digits, nsopt.Task(batches, torch.nn.functional.cross_entropy)):
        seconds.clear()
        settings = TrainSettings(epochs=1, batch_size=8, device="cpu")
        chosen = choose_compute(settings, narrow, narrow.base_widths, task).precision
        assert seconds.keys() == {"fp32", "bf16"}
        assert seconds[chosen] > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.usefixtures("native")
def test_the_same_training_has_the_same_precision_though_times_vary(
    narrow: Architecture, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch is larger than the data, and another batch size is another question."""
    fast, sizes = ["bf16"], list[int]()

    def time(*arguments: Any) -> float:
        images, _ = arguments[2]
        sizes.append(len(images))
        return float(arguments[-1].precision != fast[0])

    def choose(batch_size: int) -> str:
        settings = TrainSettings(epochs=1, batch_size=batch_size)
        return choose_compute(settings, narrow, narrow.base_widths, digits).precision

    monkeypatch.setattr(precision, "_time_batch", time)
    assert choose(8) == "bf16"
    fast[0] = "fp32"
    assert (choose(8), choose(10**6)) == ("bf16", "fp32")
    assert set(sizes) == {8, len(digits.train)}


@layers(a=nn.Linear(8, 16), b=nn.Linear(16, 2))
def WritesIntoZeros(self: Any, x: torch.Tensor) -> Any:
    rows = torch.arange(len(x), device=x.device)
    made = self.a(x)
    return self.b(torch.zeros(len(x), made.shape[1]).index_add(0, rows, made))


@pytest.mark.usefixtures("native")
def test_networks_that_do_not_run_in_bf16_take_float32() -> None:
    model, batches = WritesIntoZeros(), [(torch.rand(4, 8), torch.zeros(4, dtype=torch.int64))]
    arch = nsopt.trace(model, batches[0][0])
    task = nsopt.Task(batches, nn.functional.cross_entropy)
    settings = TrainSettings(epochs=1)
    assert choose_compute(settings, arch, arch.base_widths, task).precision == "fp32"


@layers(a=nn.Linear(8, 16), b=nn.Linear(16, 2))
def ReturnsItsLoss(self: Any, x: torch.Tensor) -> Any:
    """Returns its loss in training, and predictions in evaluation mode."""
    outputs: torch.Tensor = self.b(self.a(x))
    return outputs.square().mean() if self.training else outputs


@pytest.mark.usefixtures("native")
def test_a_step_is_timed_in_training_mode() -> None:
    model = ReturnsItsLoss().eval()
    batches = [(torch.rand(4, 8), torch.zeros(4))]
    task = nsopt.Task(batches, lambda outputs, targets: outputs)
    arch = nsopt.trace(model, batches[0][0])
    choose_compute(TrainSettings(epochs=1), arch, arch.base_widths, task)
