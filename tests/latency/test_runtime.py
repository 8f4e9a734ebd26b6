"""Runtimes in which networks are timed: functions of users, and onnxruntime."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nsopt
from nsopt import Architecture, NsoptError
from nsopt.inputs import call_network, count_examples, resize_batch
from nsopt.latency.measure import latency_conditions, measure_latencies
from nsopt.latency.runtime import (
    OnnxRuntime,
    OwnMeasure,
    choose_runtime,
    stored_runtime,
)
from nsopt.models import onnx
from tests.conftest import call_nsopt, one_line
from tests.networks import layers

IMAGES = torch.zeros(2, 3, 8, 8)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


def count(module: nn.Module, images: torch.Tensor) -> float:
    """A clock: a microsecond per parameter."""
    assert not module.training
    return sum(parameter.numel() for parameter in module.parameters()) / 1000


def test_a_function_measures_networks_under_its_own_name() -> None:
    runtime = choose_runtime(count)
    assert runtime.name == "tests.latency.test_runtime:count"
    (latency,) = measure_latencies([small()], IMAGES, runtime=runtime)
    assert latency.median_ms == pytest.approx(0.41)
    assert latency.repeats == 3
    assert latency.runtime == runtime.name
    cpu = torch.device("cpu")
    ours, theirs = latency_conditions(cpu), latency_conditions(cpu, runtime=runtime)
    assert {name for name in ours if ours[name] != theirs[name]} == {"runtime"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "must return milliseconds above 0, but returned nan"),
        (-1, "must return milliseconds above 0, but returned -1"),
        (0.0, "must return milliseconds above 0, but returned 0.0"),
        (None, "must return milliseconds, but returned NoneType"),
        ("5", "must return milliseconds, but returned str"),
        (True, "must return milliseconds, but returned bool"),
    ],
)
def test_a_function_that_returns_no_valid_time_is_refused(value: Any, message: str) -> None:
    runtime = OwnMeasure("phone:time", lambda module, images: value)
    with one_line(f"phone:time {message}"):
        measure_latencies([small()], IMAGES, runtime=runtime)


def test_stored_names_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_clock.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NsoptError, match=r"would run code of that module.*measure=hostile_clock"):
        stored_runtime("hostile_clock:time", None)
    with pytest.raises(NsoptError, match="is measured by 'hostile_clock:time', not 'mine:time'"):
        stored_runtime("hostile_clock:time", "mine:time")
    assert stored_runtime("torch", None).name == "torch"


def test_networks_are_timed_in_onnxruntime() -> None:
    runtime = choose_runtime("onnxruntime", batch_size=5)
    (latency,) = measure_latencies([small()], IMAGES, runtime=runtime, rounds=2)
    assert latency.batch_size == 5
    assert latency.median_ms > 0
    assert latency.runtime == runtime.version
    assert latency.runtime.startswith("onnxruntime 1.")


@layers(convolution=nn.Conv1d(1, 4, 8, 4))
def Sound(self: Any, samples: torch.Tensor) -> Any:
    """Takes samples (B, T) in double precision or not."""
    assert samples.ndim == 2
    return self.convolution(samples[:, None]).mean(-1)


@layers(table=nn.Embedding(9, 4), head=nn.Linear(4, 2))
def Tokens(
    self: Any,
    tokens: torch.Tensor,
    mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> Any:
    """Takes integers, and perhaps a mask and positions, which are no batch."""
    x = self.table(tokens.flatten(1))
    assert tokens.dtype == torch.int64
    if mask is not None:
        assert mask.dtype == torch.bool
        x = x * mask[..., None]
    if positions is not None:
        x = x + positions[:, None]
    return {"logits": self.head(x)}


@layers(convolution=nn.Conv2d(1, 2, 3))
def Detector(self: Any, images: list[torch.Tensor]) -> Any:
    """Takes a list of images."""
    return self.convolution(torch.stack(images))


TOKENS = torch.ones(3, 5, dtype=torch.int64)
MASK = torch.ones(3, 5, dtype=torch.bool)
KINDS: dict[str, tuple[nn.Module, Any]] = {
    "sound": (Sound(), torch.zeros(3, 64)),
    "double": (nn.Sequential(nn.Conv2d(1, 2, 3)).double(), torch.zeros(3, 1, 8, 8).double()),
    "integers": (Tokens(), TOKENS),
    "integers of four dimensions": (Tokens(), torch.ones(3, 1, 2, 2, dtype=torch.int64)),
    "arguments": (Tokens(), (TOKENS, MASK)),
    "list": (Detector(), (list(torch.zeros(3, 1, 8, 8)),)),
    "keywords": (Tokens(), {"mask": MASK, "positions": torch.zeros(5), "tokens": TOKENS}),
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (3, 8, 8)}, r"not run on images of \(3, 8, 8\): .*: give its own"),
        ({"inputs": torch.zeros(2, 8)}, "not run on these inputs: .*: give its own"),
    ],
)
def test_inputs_on_which_a_network_does_not_run_are_refused(options: Any, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(NsoptError, match=message):
        nsopt.measure_latency(model, warmup=0, repeats=1, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_any_inputs_are_timed(kind: str) -> None:
    model, inputs = KINDS[kind]
    assert nsopt.measure_latency(model, warmup=0, repeats=1, inputs=inputs).batch_size == 3
    sizes = []

    def measure(module: nn.Module, batch: Any) -> float:
        call_network(module, batch)
        sizes.append(count_examples(batch))
        return 1.0

    measure_latencies([model], inputs, runtime=choose_runtime(measure, 7))
    assert sizes == [7] * 3


@pytest.mark.parametrize("kind", ["sound", "arguments", "list"])
def test_networks_of_any_inputs_are_timed_in_onnxruntime(kind: str) -> None:
    model, inputs = KINDS[kind]
    feed = OnnxRuntime(batch_size=3).prepare(model, inputs, torch.device("cpu"))
    assert feed(inputs)() > 0


def test_a_network_that_a_runtime_cannot_run_is_one_line() -> None:
    with pytest.raises(NsoptError, match=r"^onnxruntime cannot run this network: "):
        OnnxRuntime().prepare(*KINDS["double"], torch.device("cpu"))


def test_a_file_has_the_names_of_keywords_and_any_batch_size(tmp_path: Path) -> None:
    model, inputs = KINDS["keywords"]
    file = tmp_path / "tokens.onnx"
    onnx.export_to_onnx(model, [inputs], {}, file)
    network = onnx.OnnxNetwork(file)
    more = resize_batch(inputs, 4) | {"tokens": torch.arange(20).reshape(4, 5) % 9}
    arrays = network.name_inputs(more)
    assert arrays.keys() == inputs.keys()
    expected = call_network(model, more)["logits"].detach().numpy()
    np.testing.assert_allclose(network(arrays), expected, atol=1e-6)


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, options: dict[str, torch.Tensor]) -> torch.Tensor:
        return x * options["scale"]


def test_a_dictionary_inside_keyword_arguments_can_be_run(tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    batch = {"x": x, "options": {"scale": torch.full((3, 1), 2.0)}}
    onnx.export_to_onnx(Scaled(), [batch], {}, tmp_path / "net.onnx")
    network = onnx.OnnxNetwork(tmp_path / "net.onnx")
    assert np.allclose(network(network.name_inputs(batch)), 2 * x)


def test_a_missing_onnxruntime_causes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(onnx, "import_module", missing)
    done = call_nsopt("study", "--runtime=onnxruntime", "--metric=latency")
    assert done.returncode == 2
    assert "onnxruntime is not installed: pip install 'nsopt[export]'" in done.stderr


def test_a_measuring_function_gives_a_latency(narrow: Architecture) -> None:
    arch = nsopt.with_latency(narrow, "cpu", runtime=count)
    whole = count(narrow.build(narrow.base_widths).eval(), torch.empty(0))
    assert arch.cost("latency")(narrow.base_widths) == pytest.approx(whole)
    found = nsopt.solve_measured_widths(
        arch, nsopt.uniform_curve(narrow.base_widths), whole / 2, device="cpu", runtime=count
    )
    assert count(narrow.build(found.widths).eval(), torch.empty(0)) <= whole / 2
    assert found.median_ms > 0.45 * whole
