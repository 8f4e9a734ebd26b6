"""Fast replacements of operations agree with PyTorch; channels that become places or steps stay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import nsopt
from nsopt.inputs import tensors_in
from nsopt.models.trace import trace
from nsopt.tracing.rules import RESULTS
from tests.networks import keep, layers

aten = torch.ops.aten
MAPS, KEYS = torch.rand(2, 8, 6, 6), torch.rand(2, 5, 4, 3).transpose(1, 2)
LAST = MAPS.to(memory_format=torch.channels_last)
INTEGERS, WEIGHT = torch.arange(12).view(3, 4), nn.Parameter(torch.rand(6, 4))
KERNEL, STEPS = torch.rand(4, 4, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "keys of a cache": (aten.cat.default, ([torch.zeros(0), KEYS], -2)),
    "two sets of keys": (aten.cat.default, ([KEYS, KEYS], 2)),
    "maps with channels last": (aten.cat.default, ([LAST, LAST], 1)),
    "half of the channels": (aten.convolution.default, (MAPS[:, 4:], KERNEL, None, *STEPS)),
    "channels last": (aten.convolution.default, (LAST[:, :4], KERNEL, None, *STEPS)),
    "samples": (aten.grid_sampler_2d.default, (MAPS, torch.rand(2, 3, 5, 2), 0, 0, False)),
    "a constant": (aten.lift_fresh.default, (torch.zeros(0),)),
    "a sum of truth values": (aten.sum.dim_IntList, (INTEGERS > 3, [1])),
    "pooled maps": (aten.max_pool2d_with_indices.default, (LAST, [2, 2])),
    "a limit in float64": (aten.clamp.Tensor, (MAPS, torch.zeros(6).double())),
    "rows of a parameter": (aten.embedding.default, (WEIGHT, INTEGERS % 6)),
    "a parameter alone": (aten.cat.default, ([WEIGHT, WEIGHT], 1)),
    "a normalised weight": (aten._weight_norm_interface.default, (WEIGHT, torch.rand(6, 1))),
    "maps and channels": (aten.mul.Tensor, (LAST, torch.rand(8, 1, 1))),
    "both sides broadcast": (aten.add.Tensor, (torch.rand(3, 1), INTEGERS[:1])),
}


@pytest.mark.parametrize("name", CASES)
def test_a_replacement_returns_what_pytorch_does(name: str) -> None:
    operation: Any
    operation, arguments = CASES[name]
    with FakeTensorMode(allow_non_fake_inputs=True):
        expected = operation(*arguments)
        found = RESULTS[operation._schema.name.partition("::")[2]](operation, *arguments)
    for one, other in zip(tensors_in(found), tensors_in(expected), strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


@layers(more=None, stem=nn.Conv2d(3, 16, 3), maps=nn.Conv2d(16, 4, 1))
def Detects(self: Any, x: Tensor) -> Any:
    """Returns maps in training, as a detector of YOLO, and else also what it makes of them."""
    maps = self.maps(self.stem(x).relu())
    if self.training:
        return self.maps(self.stem(x).tanh()) if self.more else maps
    return maps, maps.flatten(2).softmax(1)


@pytest.mark.parametrize("more", [False, True])
def test_a_mode_that_only_ends_earlier_is_left_out(more: bool) -> None:
    arch = nsopt.trace(Detects(more), torch.rand(2, 3, 8, 8))
    assert arch.network._quick_run.modes == ((False, True) if more else (False,))
    assert arch.base_widths == (16,)


@layers(layer=None, first=nn.Linear(6, 16), last=nn.Linear(4, 3))
def OfPlaces(self: Any, x: Tensor) -> Any:
    """Linear units are the places of a layer, which mixes neighbours."""
    made = self.layer(self.first(x).unsqueeze(1))
    return self.last(made.mean(2))


@layers(first=nn.Conv1d(3, 16, 1), layer=nn.LSTM(5, 4, batch_first=True), last=nn.Linear(4, 3))
def Steps(self: Any, x: Tensor) -> Any:
    _, (end, _) = self.layer(self.first(x))
    return self.last(end[-1])


@pytest.mark.parametrize(
    ("model", "example", "name"),
    [
        (OfPlaces(nn.Conv1d(1, 4, 3)), torch.randn(2, 6), "first"),
        (OfPlaces(nn.ConvTranspose1d(1, 4, 3)), torch.randn(2, 6), "first"),
        (Steps(), torch.randn(2, 3, 5), "first"),
    ],
    ids=["convolution", "transposed", "recurrent"],
)
def test_channels_as_places_or_steps_stay(model: nn.Module, example: Tensor, name: str) -> None:
    assert name not in trace(model, example).layer_names


class HeldTwice(nn.Module):
    """A list holds a weight, too, as code of tied weights does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(10, 16), nn.Linear(16, 16)
        self.tied = [self.embedding.weight]
        self.positions = nn.Buffer(torch.randn(4, 16), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.mix(self.embedding(x) + self.positions) @ self.embedding.weight.t()


def test_tensors_that_a_list_holds_too_follow_the_smaller_network(tmp_path: Path) -> None:
    model, x = HeldTwice().eval(), torch.randint(10, (2, 4))
    arch = nsopt.trace(model, x)
    kept = [torch.arange(1, width, 2) for width in arch.base_widths]
    small = arch.prune(model, kept).eval()
    assert isinstance(small, HeldTwice)
    assert small.tied[0] is small.embedding.weight
    small(x).sum().backward()
    assert model.embedding.weight.grad is None
    keep(small, list(map(len, kept))).save(tmp_path / "small.pt")
    loaded = nsopt.load_network(tmp_path / "small.pt", arch).model
    torch.testing.assert_close(loaded(x), small(x))
