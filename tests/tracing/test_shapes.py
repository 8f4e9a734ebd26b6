"""Fast replacements of operations agree with PyTorch; runs that show nothing new are left out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import nsopt
from nsopt.inputs import tensors_in
from nsopt.tracing.labels import Trace
from nsopt.tracing.shapes import RESULTS

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


class Detects(nn.Module):
    """Returns maps in training, as a detector of YOLO, and else also what it makes of them."""

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.more, self.stem, self.maps = more, nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Any:
        maps = self.maps(self.stem(x).relu())
        if self.training:
            return self.maps(self.stem(x).tanh()) if self.more else maps
        return maps, maps.flatten(2).softmax(1)


@pytest.mark.parametrize("more", [False, True])
def test_a_mode_that_only_ends_earlier_is_left_out(more: bool) -> None:
    arch = nsopt.trace(Detects(more), torch.rand(2, 3, 8, 8))
    assert arch.network._quick_run.modes == ((False, True) if more else (False,))
    assert arch.base_widths == (16,)


def test_operations_of_layers_that_rest_in_evaluation_do_not_matter() -> None:
    first, noise = [("mm", "a"), ("add", "b")], [("rand", "drop")]
    assert Trace(operations=[first, [*noise, *first]]).runs_alike({"drop"})
    assert not Trace(operations=[first, [*noise, *first]]).runs_alike(set())
    assert not Trace(operations=[first, first[1:]]).runs_alike(set())
