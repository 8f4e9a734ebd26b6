"""Values that do not depend on the index: how they are written, counted, cut and read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import nsopt
from nsopt import NsoptError
from tests.networks import layers
from tests.tracing.checks import randomise, with_zeros

Forward = Callable[[Any, Tensor], Any]


@layers(function=None, a=nn.Linear(8, 12), b=nn.Linear(12, 4), c=nn.Linear(13, 4))
@layers(gru=nn.GRUCell(8, 10), second=nn.GRUCell(10, 6), codes=nn.Embedding(12, 4))
@layers(head=nn.Linear(6, 4), filters=nn.Parameter(torch.randn(12, 4, 4)))
@layers(square=nn.Parameter(torch.randn(12, 12)), single=nn.Parameter(torch.randn(1, 1, 1)))
def Two(self: Any, x: Tensor) -> Any:
    """Two layers, of whose 12 channels between them a function makes something."""
    return self.function(self, x)


def compute_weight(net: Any, x: Tensor) -> Tensor:
    filters = net.filters.exp().repeat(1, 1, 2).transpose(0, 1)
    return functional.bilinear(net.a(x).sigmoid(), x, filters)


def between(change: Forward) -> nn.Module:
    """Return a network that changes the channels between two layers."""
    return Two(lambda net, x: net.b(change(net.a(x), x)))


def write_beside_a_view(h: Tensor, x: Tensor) -> Tensor:
    mask = torch.ones(h.shape[1])
    view = mask[None]
    mask[0] = 0.0
    return h * view


def write_into_a_part(h: Tensor, x: Tensor) -> Tensor:
    sums = torch.zeros(2, h.shape[1])
    torch.cumsum(torch.ones(h.shape[1]), 0, out=sums[0])
    return h * sums.sum(0)


def write_by_several_indices(h: Tensor, x: Tensor) -> Tensor:
    mask = torch.ones(1, h.shape[1])
    mask[:, torch.tensor([0, 2])] = 0.5
    return h * mask


BY_INDEX: dict[str, Forward] = {
    "index_fill": lambda h, x: h * torch.ones(h.shape[1]).index_fill_(0, torch.tensor([0, 3]), 0),
    "drawn": lambda h, x: h * torch.randn(h.shape[1], generator=torch.Generator().manual_seed(0)),
    "sums": lambda h, x: h * torch.ones(h.shape[1]).cumsum(0),
    "padding": lambda h, x: h * functional.pad(torch.ones(h.shape[1] - 1), (1, 0)),
    "view": write_beside_a_view,
    "part": write_into_a_part,
    "indices": write_by_several_indices,
}


@pytest.mark.parametrize("way", BY_INDEX)
def test_values_that_depend_on_the_index_keep_the_width(way: str) -> None:
    with pytest.raises(NsoptError, match="a: must equal a dimension of fixed size"):
        nsopt.trace(between(BY_INDEX[way]), torch.randn(2, 8))


def test_a_matrix_that_is_transposed_in_memory_keeps_the_size_in_the_code() -> None:
    with pytest.raises(NsoptError, match="square: the code cuts a dimension at another place"):
        nsopt.trace(
            Two(lambda net, x: net.b(net.a(x) @ net.square.as_strided((12, 12), (1, 12)))),
            torch.randn(2, 8),
        )


@pytest.mark.parametrize("pick", [Tensor.max, Tensor.median, Tensor.cummax])
def test_indices_of_channels_keep_the_width_once_they_are_read(pick: Any) -> None:
    def use_indices(net: Any, x: Tensor) -> Tensor:
        h = net.a(x)
        return net.b(h) * net.codes(pick(h, 1)[1]).reshape(len(h), -1, 4).sum(1)

    def use_values(net: Any, x: Tensor) -> Tensor:
        h = net.a(x)
        return net.b(h) * pick(h, 1)[0].reshape(len(h), -1).sum(1, keepdim=True)

    with pytest.raises(NsoptError, match="a: is read by its indices"):
        nsopt.trace(Two(use_indices), torch.randn(2, 8))
    assert nsopt.trace(Two(use_values), torch.randn(2, 8)).base_widths == (12,)


def split_states(net: Any, x: Tensor) -> Any:
    sizes = [net.gru.hidden_size, net.second.hidden_size]
    first, second = torch.zeros(len(x), sum(sizes)).split(sizes, 1)
    return net.head(net.second(net.gru(x, first), second))


def add_ones_like_one_channel(net: Any, x: Tensor) -> Any:
    h = net.a(x)
    return net.c(torch.cat([torch.ones_like(h[:, :1]), h], 1))


def use_a_filter_for_all(net: Any, x: Tensor) -> Any:
    h = net.a(x)
    return net.b(h + functional.conv1d(h.reshape(-1, 1, 1), net.single).view_as(h))


def write_by_mask(h: Tensor, x: Tensor) -> Tensor:
    h[h < 0] = 0.0
    return h


def concatenate_into(h: Tensor, x: Tensor) -> Tensor:
    return torch.cat([h.detach()], 1, out=torch.empty(len(x), h.shape[1]))


@pytest.mark.parametrize(
    ("net", "widths"),
    [
        (Two(split_states), [10, 6]),
        (Two(add_ones_like_one_channel), [12]),
        (Two(use_a_filter_for_all), [12]),
        (between(write_by_mask), [12]),
        (between(concatenate_into), [12]),
        (between(lambda h, x: (h.view(torch.int32) & -65536).view(torch.float32)), [12]),
        (between(lambda h, x: torch.fake_quantize_per_tensor_affine(h, 0.1, 0, -9, 255)), [12]),
    ],
    ids=["states", "ones", "filter", "mask", "concatenated", "bits", "rounded"],
)
def test_channels_can_be_removed(net: nn.Module, widths: list[int]) -> None:
    x = torch.randn(2, 8)
    arch = nsopt.trace(net, x)
    assert list(arch.base_widths) == widths
    randomise(net)
    kept = [np.arange(1, width, 2) for width in widths]
    smaller, zeroed = arch.prune(net, [k.tolist() for k in kept]), with_zeros(arch, net, kept)
    with torch.no_grad():
        torch.testing.assert_close(smaller.eval()(x), zeroed.eval()(x))
        with FlopCounterMode(display=False) as counter:
            smaller(x[:1])
    assert arch.cost("macs")([width // 2 for width in widths]) == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "net",
    [
        between(lambda h, x: h * h[:, :1]),
        Two(lambda net, x: (net.b(net.a(x)), net.a(x)[:, :1])),
    ],
    ids=["read", "returned"],
)
def test_of_channels_of_which_one_is_used_none_can_be_removed(net: nn.Module) -> None:
    arch = nsopt.trace(net, torch.randn(2, 8))
    assert (arch.base_widths, arch.rigid) == ((12,), (True,))


def test_steps_written_one_by_one_are_joined() -> None:
    def write(net: Any, x: Tensor) -> Tensor:
        states = torch.zeros(3, len(x), net.a.out_features)
        for step in range(3):
            states[step].copy_(net.a(x))
        return net.b(states.mean(0))

    arch = nsopt.trace(Two(write), torch.randn(2, 8))
    assert arch.build([5])(torch.randn(3, 8)).shape == (3, 4)


def test_a_bilinear_weight_that_is_computed_makes_channels_inexact() -> None:
    arch = nsopt.trace(Two(compute_weight), torch.randn(2, 8))
    assert not any(group.exact for group in arch.network.family.groups)


def test_code_that_pads_odd_widths_keeps_the_width() -> None:
    def pad(h: Tensor, x: Tensor) -> Tensor:
        width = h.shape[1]
        h = functional.pad(h, (0, width % 2)).relu()
        return h[:, :width] if width % 2 else h

    with pytest.raises(NsoptError, match="a: the network runs slice instead of nothing"):
        nsopt.trace(between(pad), torch.randn(2, 8))


@layers(a=nn.Linear(8, 12), b=nn.Linear(12, 4), on=nn.Buffer(torch.ones(1, dtype=torch.int64)))
@layers(low=nn.Buffer(-torch.ones(12)), high=nn.Buffer(torch.ones(12)))
@layers(scale=nn.Buffer(torch.ones(12)), zero=nn.Buffer(torch.zeros(12, dtype=torch.int32)))
def Rounded(self: Any, x: Tensor) -> Any:
    """A layer whose weight is rounded as in training for 8 bits, with a scale for each channel."""
    states, on, weight = (self.low, self.high, self.scale, self.zero), self.on, self.a.weight
    rounding = 0.01, -128, 127, 0, True, True
    weight = torch.fused_moving_avg_obs_fake_quant(weight, on, on, *states, *rounding)
    weight = torch.fake_quantize_per_channel_affine(weight, self.scale, self.zero, 0, -128, 127)
    return self.b(functional.linear(x, weight, self.a.bias).relu())


def test_statistics_of_training_for_8_bits_go_with_their_channels() -> None:
    arch = nsopt.trace(Rounded(), torch.randn(2, 8))
    assert arch.base_widths == (12,)
    assert arch.build([5]).get_buffer("scale").shape == (5,)
