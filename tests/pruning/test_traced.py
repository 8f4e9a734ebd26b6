"""Traced networks that shrink while they train."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import nsopt
from nsopt import ImageData, SearchSettings, trace
from nsopt.compute.device import Compute
from nsopt.data.images import ImageSet
from nsopt.pruning.engine import ShrinkingNetwork
from nsopt.pruning.search import _choose_widths
from nsopt.pruning.shrinking import ShrinkingModel, TracedGate, find_gate_slices
from nsopt.scaling.record import Iteration
from nsopt.tasks.classification import Classification
from tests.conftest import BRIEF
from tests.tracing import awkward

CPU = Compute(torch.device("cpu"), bf16=False)
SETTINGS = SearchSettings(filters_per_step=16, iterations=1, batch_size=64, lr=0.05, **BRIEF)


@pytest.mark.parametrize(
    "kind",
    [awkward.Chunks, awkward.Pieces, awkward.Grouped, awkward.SumOfJoined, awkward.UpAndDown],
    ids=lambda kind: kind.__name__,
)
def test_a_shrunken_network_has_the_tensors_of_a_pruned_one(kind: type[nn.Module]) -> None:
    """And its momentum has their shapes."""
    arch, x = trace(kind(), torch.randn(2, 3, 32, 32)), torch.randn(6, 3, 32, 32)
    images = ImageData("x", ("a", "b"), *([_noise()] * 2)).split(0.25)
    network = ShrinkingNetwork(arch, arch.base_widths, Classification(images), SETTINGS, CPU)
    model = network.model
    optimizer = network._optimizer
    for _ in range(2):
        optimizer.zero_grad()
        output = model(x)
        (output["out"] if isinstance(output, dict) else output).square().mean().backward()
        optimizer.step()
    kept = [np.arange(0, max(1, w - w // 3)) for w in arch.base_widths]
    expected = arch.network.retrace(model).cut(model, kept).state_dict()
    network._prunable.shrink(kept, optimizer)
    torch.testing.assert_close(dict(model.state_dict()), dict(expected), rtol=0, atol=0)
    momentum = [state["momentum_buffer"].shape for state in optimizer.state.values()]
    assert momentum == [p.shape for p in model.parameters() if p in optimizer.state]
    for group, gates in zip(arch.base_widths, network._prunable.gates, strict=True):
        assert gates
        assert all(len(gate()) == max(1, group - group // 3) for gate in gates)


def _noise() -> ImageSet:
    labels = torch.arange(40) % 2
    return ImageSet(torch.randint(255, (40, 3, 32, 32), dtype=torch.uint8), labels)


def test_units_are_scored_behind_the_norm_of_their_layer() -> None:
    arch = trace(awkward.RawParameter(), torch.randn(2, 3, 32, 32))
    norms = [[[(f"{path}.weight", 0), (f"{path}.bias", 0)]] for path in ("a.1", "b.1", "c.1")]
    assert find_gate_slices(arch.network) == norms
    arch = trace(awkward.Flattened(), torch.randn(2, 3, 32, 32))
    assert find_gate_slices(arch.network)[2] == [[("hidden.weight", 0), ("hidden.bias", 0)]]


def test_gradients_of_gates_equal_those_of_explicit_factors() -> None:
    """dE/dz of a factor z = 1 behind each place, by autograd in float64."""
    arch = trace(awkward.Flattened(), torch.randn(2, 3, 32, 32))
    model = arch.build(arch.base_widths).double()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    z = {}
    hooks = []
    for path, width in (("a.1", 16), ("b.1", 8), ("hidden", 32)):
        z[path] = torch.ones(width, dtype=torch.float64, requires_grad=True)
        shape = (1, -1, 1, 1) if path != "hidden" else (1, -1)
        multiply = lambda _, __, y, own=z[path], shape=shape: y * own.view(shape)  # noqa: E731
        hooks.append(model.get_submodule(path).register_forward_hook(multiply))
    expected = torch.autograd.grad(model(x).square().mean(), list(z.values()))
    for hook in hooks:
        hook.remove()
    pruned = ShrinkingModel(arch, model)
    model(x).square().mean().backward()
    for group, gradient in zip(pruned.gates, expected, strict=True):
        (gate,) = group
        torch.testing.assert_close(gate(), gradient)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_factors_of_a_weight_norm_are_one_gate(norm: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(6, 4)

    def score() -> list[Tensor]:
        pruned = ShrinkingModel(trace(model, x), model)
        model.zero_grad()
        model(x).square().mean().backward()
        return [gate() for gate in pruned.gates[0]]

    expected = score()
    norm(model[0])
    torch.testing.assert_close(score(), expected)


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8)],
    ids=["instance", "batch", "frozen"],
)
def test_units_behind_a_norm_without_scale_are_scored_by_readers(norm: nn.Module) -> None:
    """Such a norm undoes the scale of a layer, along which the gradient of its weights is 0."""
    norm.requires_grad_(False)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    arch = trace(model, x := torch.randn(4, 3, 10, 10))
    z = torch.ones(8, requires_grad=True)
    pruned = ShrinkingModel(arch, model)
    factor = model[2].register_forward_hook(lambda _, __, y: y * z.view(1, -1, 1, 1))
    (expected,) = torch.autograd.grad(model(x).square().mean(), z)
    factor.remove()
    model(x).square().mean().backward()
    torch.testing.assert_close(pruned.gates[0][0](), expected)


def test_the_bias_of_a_grouped_convolution_is_no_gate_of_its_own() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3, groups=4), nn.ReLU()),
        *(nn.Conv2d(32, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    arch = trace(model, torch.randn(2, 3, 12, 12))
    gates = dict(zip(arch.layer_names, find_gate_slices(arch.network), strict=True))
    assert gates["2"] == [[("2.weight", 0), ("2.bias", 0)]]


class Recorder(TorchDispatchMode):
    """The names of the operations that tensors go through."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().removeprefix("aten::").partition(".")[0].strip("_"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [awkward.Chunks, awkward.Pieces, awkward.Grouped])
def test_units_of_several_channels_are_scored_by_deterministic_sums(kind: type[nn.Module]) -> None:
    """On a GPU, `index_add` and `scatter_add` add in any order, and their results vary."""
    arch, recorder = trace(kind(), torch.randn(2, 3, 32, 32)), Recorder()
    model = arch.build(arch.base_widths).double()
    pruned = ShrinkingModel(arch, model)
    model(torch.randn(6, 3, 32, 32, dtype=torch.float64)).square().mean().backward()
    several = 0
    for group, gates in enumerate(pruned.gates):
        for gate in gates:
            assert isinstance(gate, TracedGate)
            units = pruned.find_units(*gate._slices[0], group)
            scores = torch.zeros(len(units), dtype=torch.float64)
            for name, axis in gate._slices:
                assert axis == 0
                parameter = pruned.model.get_parameter(name)
                assert parameter.grad is not None
                scores += (parameter * parameter.grad).detach().reshape(len(units), -1).sum(1)
            expected = [scores[torch.from_numpy(units == u)].sum() for u in range(units.max() + 1)]
            with recorder:
                found = gate()
            torch.testing.assert_close(found, torch.stack(expected))
            several += len(expected) < len(units)
    assert several
    assert not {name for name in recorder.names if name.startswith(("index_add", "scatter"))}


def test_the_importance_of_a_group_that_stays_is_on_the_device_of_the_network() -> None:
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    arch = nsopt.trace(nn.Sequential(*layers), torch.zeros(2, 3, 8, 8))
    pruned = ShrinkingModel(arch, arch.build(arch.base_widths).to("meta"))
    assert pruned.score_rigid(4).device.type == "meta"


def test_small_widths_are_raised_at_most_to_what_a_group_can_have() -> None:
    arch = trace(awkward.Cropped(), torch.randn(2, 3, 32, 32))
    last = cast(Iteration, SimpleNamespace(widths=(2, 2, 2)))
    widths = _choose_widths(arch, [last], SETTINGS.updated(small_width=50))
    assert sorted(widths) == sorted(
        base if name in arch.capped else 52
        for name, base in zip(arch.layer_names, arch.base_widths, strict=True)
    )
    arch.build(widths)


@pytest.mark.parametrize("kind", [awkward.SumOfJoined, awkward.Chunks, awkward.UpAndDown])
def test_a_network_can_inherit_a_single_unit_of_every_group(kind: type[nn.Module]) -> None:
    arch, x = trace(kind(), torch.randn(2, 3, 32, 32)), torch.randn(2, 3, 32, 32)
    model = arch.build(arch.base_widths).eval()
    kept = [np.array([width // 2]) for width in arch.base_widths]
    pruned = arch.prune(model, [k.tolist() for k in kept]).eval()
    smaller = arch.inherit(model, [torch.from_numpy(k) for k in kept], [1] * len(kept)).eval()
    torch.testing.assert_close(smaller(x), pruned(x))
    wider = arch.inherit(model, [torch.from_numpy(k) for k in kept], [1, 3] + [1] * (len(kept) - 2))
    assert all(bool(p.isfinite().all()) for p in wider.parameters())
