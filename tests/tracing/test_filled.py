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
from tests.tracing.checks import randomise, with_zeros

Forward = Callable[["Two", Tensor], Any]


class Two(nn.Module):
    """Two layers, of whose 12 channels between them a function makes something."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(12, 4), nn.Linear(13, 4)
        self.gru, self.second, self.codes = (
            nn.GRUCell(8, 10),
            nn.GRUCell(10, 6),
            nn.Embedding(12, 4),
        )
        self.head, self.filters = nn.Linear(6, 4), nn.Parameter(torch.randn(12, 4, 4))
        self.square = nn.Parameter(torch.randn(12, 12))
        self.single = nn.Parameter(torch.randn(1, 1, 1))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def count_mask(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    mask = (x[:, :1] > 0).float().expand_as(h)
    return net.b(h * mask) / (mask.sum(1, keepdim=True) + 1)


def repeat_mask(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.b(h) / ((x[:, :1] > 0).float().repeat(1, h.shape[1]).sum(1, keepdim=True) + 1)


def soften_ones(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.b(h * torch.ones(h.shape[1]).softmax(0))


def multiply_ones(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.b(h) / torch.ones(h.shape[1]).dot(torch.ones(h.shape[1]))


def compute_weight(net: Two, x: Tensor) -> Tensor:
    return functional.bilinear(
        net.a(x).sigmoid(), x, net.filters.exp().repeat(1, 1, 2).transpose(0, 1)
    )


def slice_by_width(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.b(h) + x[:, : h.shape[1] // 2].amax(1, keepdim=True)


def pick_by_width(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.b(h) + x.topk(h.shape[1] // 3, 1)[0].sum(1, keepdim=True)


@pytest.mark.parametrize(
    "function",
    [count_mask, repeat_mask, soften_ones, multiply_ones, slice_by_width, pick_by_width],
    ids=lambda function: function.__name__,
)
def test_a_width_that_the_code_calculates_with_is_inexact(function: Forward) -> None:
    arch = nsopt.trace(Two(function), torch.randn(2, 8))
    assert [group.exact for group in arch.network.family.groups] == [False]


def write_by_index(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.b(h * torch.ones(h.shape[1]).index_fill_(0, torch.tensor([0, 3]), 0.0))


def write_beside_a_view(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    mask = torch.ones(h.shape[1])
    view = mask[None]
    mask[0] = 0.0
    return net.b(h * view)


def write_to_data(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    mask = torch.ones(h.shape[1])
    mask.data[0] = 0.0
    return net.b(h * mask)


def write_into_a_part(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    sums = torch.zeros(2, h.shape[1])
    torch.cumsum(torch.ones(h.shape[1]), 0, out=sums[0])
    return net.b(h * sums.sum(0))


def write_by_several_indices(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    mask = torch.ones(1, h.shape[1])
    mask[:, torch.tensor([0, 2])] = 0.5
    return net.b(h * mask)


def draw_seeded(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.b(h * torch.randn(h.shape[1], generator=torch.Generator().manual_seed(0)))


def transpose_in_memory(net: Two, x: Tensor) -> Tensor:
    return net.b(net.a(x) @ net.square.as_strided((12, 12), (1, 12)))


@pytest.mark.parametrize(
    "function",
    [
        *(write_by_index, write_beside_a_view, write_to_data, write_into_a_part),
        *(write_by_several_indices, draw_seeded),
    ],
    ids=lambda function: function.__name__,
)
def test_values_that_depend_on_the_index_keep_the_width(function: Forward) -> None:
    with pytest.raises(NsoptError, match="a: must equal a dimension of fixed size"):
        nsopt.trace(Two(function), torch.randn(2, 8))


def test_a_matrix_that_is_transposed_in_memory_keeps_the_size_in_the_code() -> None:
    with pytest.raises(NsoptError, match="square: the code cuts a dimension at another place"):
        nsopt.trace(Two(transpose_in_memory), torch.randn(2, 8))


@pytest.mark.parametrize("pick", [Tensor.max, Tensor.median, Tensor.cummax])
def test_indices_of_channels_keep_the_width_once_they_are_read(pick: Any) -> None:
    def use_indices(net: Two, x: Tensor) -> Tensor:
        h = net.a(x)
        return net.b(h) * net.codes(pick(h, 1)[1]).reshape(len(h), -1, 4).sum(1)

    def use_values(net: Two, x: Tensor) -> Tensor:
        h = net.a(x)
        return net.b(h) * pick(h, 1)[0].reshape(len(h), -1).sum(1, keepdim=True)

    with pytest.raises(NsoptError, match="a: is read by its indices"):
        nsopt.trace(Two(use_indices), torch.randn(2, 8))
    assert nsopt.trace(Two(use_values), torch.randn(2, 8)).base_widths == (12,)


def split_states(net: Two, x: Tensor) -> Tensor:
    first, second = torch.zeros(len(x), net.gru.hidden_size + net.second.hidden_size).split(
        [net.gru.hidden_size, net.second.hidden_size], 1
    )
    return net.head(net.second(net.gru(x, first), second))


def write_by_mask(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    h[h < 0] = 0.0
    return net.b(h)


def add_ones_like_one_channel(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.c(torch.cat([torch.ones_like(h[:, :1]), h], 1))


def view_bits(net: Two, x: Tensor) -> Tensor:
    return net.b((net.a(x).view(torch.int32) & -65536).view(torch.float32))


def concatenate_into(net: Two, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.b(torch.cat([net.a(x)], 1, out=torch.empty(len(x), net.a.out_features)))


def round_to_8_bits(net: Two, x: Tensor) -> Tensor:
    return net.b(torch.fake_quantize_per_tensor_affine(net.a(x).relu(), 0.1, 0, 0, 255))


def use_a_filter_for_all(net: Two, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.b(h + functional.conv1d(h.reshape(-1, 1, 1), net.single).view_as(h))


@pytest.mark.parametrize(
    ("function", "widths"),
    [
        (split_states, [10, 6]),
        (write_by_mask, [12]),
        (add_ones_like_one_channel, [12]),
        (view_bits, [12]),
        (concatenate_into, [12]),
        (round_to_8_bits, [12]),
        (use_a_filter_for_all, [12]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_channels_can_be_removed(function: Forward, widths: list[int]) -> None:
    torch.manual_seed(0)
    net, x = Two(function), torch.randn(2, 8)
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


def test_channels_of_which_one_is_read_cannot_be_removed_one_by_one() -> None:
    def read_one(net: Two, x: Tensor) -> Tensor:
        h = net.a(x)
        return net.b(h * h[:, :1])

    arch = nsopt.trace(Two(read_one), torch.randn(2, 8))
    assert (arch.base_widths, arch.rigid) == ((12,), (True,))


def test_one_channel_that_is_returned_ties_the_others() -> None:
    arch = nsopt.trace(Two(lambda net, x: (net.b(net.a(x)), net.a(x)[:, :1])), torch.randn(2, 8))
    assert (arch.base_widths, arch.rigid) == ((12,), (True,))


def test_steps_written_one_by_one_are_joined() -> None:
    def write(net: Two, x: Tensor) -> Tensor:
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
    def pad(net: Two, x: Tensor) -> Tensor:
        h = net.a(x)
        width = h.shape[1]
        h = functional.pad(h, (0, width % 2)).relu()
        return net.b(h[:, :width] if width % 2 else h)

    with pytest.raises(NsoptError, match="a: the network runs slice instead of nothing"):
        nsopt.trace(Two(pad), torch.randn(2, 8))


class Rounded(nn.Module):
    """A layer whose weight is rounded as in training for 8 bits, with a scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 4)
        self.register_buffer("on", torch.ones(1, dtype=torch.int64))
        self.low, self.high = nn.Buffer(-torch.ones(12)), nn.Buffer(torch.ones(12))
        self.scale, self.zero = (
            nn.Buffer(torch.ones(12)),
            nn.Buffer(torch.zeros(12, dtype=torch.int32)),
        )

    def forward(self, x: Tensor) -> Tensor:
        states = self.low, self.high, self.scale, self.zero
        rounding = 0.01, -128, 127, 0, True, True
        on = self.get_buffer("on")
        weight = torch.fused_moving_avg_obs_fake_quant(self.a.weight, on, on, *states, *rounding)
        weight = torch.fake_quantize_per_channel_affine(weight, self.scale, self.zero, 0, -128, 127)
        return self.b(functional.linear(x, weight, self.a.bias).relu())


def test_statistics_of_training_for_8_bits_go_with_their_channels() -> None:
    arch = nsopt.trace(Rounded(), torch.randn(2, 8))
    assert arch.base_widths == (12,)
    assert arch.build([5]).get_buffer("scale").shape == (5,)
