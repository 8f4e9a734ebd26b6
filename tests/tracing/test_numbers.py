"""Attributes in which modules store sizes follow the widths."""

import enum
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nsopt import trace
from tests.networks import layers
from tests.tracing.checks import check_building, check_network_of


class Conditioned(nn.Module):
    """A block of Diffusion Policy: a scale and a shift for the channels between two layers."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.channels = 8
        self.a, self.b = nn.Conv1d(inputs, 8, 1), nn.Conv1d(8, 8, 1)
        self.code = nn.Linear(3, 16)
        self.past = nn.Conv1d(inputs, 8, 1) if inputs != 8 else nn.Identity()

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        changes = self.code(code).reshape(len(x), 2, self.channels, 1)
        y = changes[:, 0] * self.a(x) + changes[:, 1]
        past: Tensor = self.past(x)
        return self.b(y.relu()) + past


@layers(middle=Conditioned(8), down=nn.ModuleList([Conditioned(4), Conditioned(8)]))
@layers(last=nn.Conv1d(8, 4, 1))
def Denoiser(self: Any, x: Tensor, code: Tensor) -> Any:
    """The attributes `channels` follow the inner width, which equals that of the stream."""
    for block in (*self.down, self.middle):
        x = block(x, code)
    return self.last(x)


def test_an_attribute_follows_the_same_axis_in_all_blocks() -> None:
    model, x = Denoiser(), (torch.randn(2, 4, 5), torch.randn(2, 3))
    check_network_of(trace(model, x), model, x, [8, 8, 8, 8], searches=False)


class Resettable(nn.Module):
    """As in timm: `reset` reads a size that `forward` does not, and `steps` is none, by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features, self.num_steps, self.dim = 8, 8, 8
        self.stem, self.mixer, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x).relu()
        for _ in range(self.dim):
            x = self.mixer(x).relu()
        return self.head(x)

    def reset(self, classes: int) -> None:
        self.head = nn.Linear(self.num_features, classes)


def test_attributes_that_forward_does_not_read_follow_the_widths() -> None:
    model, x = Resettable(), torch.randn(2, 6)
    smaller = trace(model, x).prune(model, [range(5)])
    assert isinstance(smaller, Resettable)
    assert (smaller.num_features, smaller.num_steps, smaller.dim) == (5, 8, 8)
    smaller.reset(3)
    assert smaller(x).shape == (2, 3)
    assert (model.num_features, model.head.in_features) == (8, 8)


@layers(embed_dim=None)
def Unembed(self: Any, x: Tensor) -> Any:
    """A module without tensors that stores a size, as in SwinIR."""
    return x.transpose(1, 2).view(len(x), self.embed_dim, 3, 3)


def test_sizes_in_modules_without_tensors_follow_the_widths() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Unembed(8), nn.Conv2d(8, 4, 3))
    arch = trace(model, torch.randn(2, 9, 6))
    assert arch.base_widths == (8,)
    assert arch.build([5])(torch.randn(2, 9, 6)).shape == (2, 4, 1, 1)


@layers(shape=None)
def Reshape(self: Any, x: Tensor) -> Any:
    return x.view(len(x), *self.shape)


@pytest.mark.parametrize("reshape", [nn.Unflatten(1, (12, 4, 4)), Reshape((12, 4, 4))])
def test_a_size_in_a_shape_follows_the_width(reshape: nn.Module) -> None:
    """The decoder of an autoencoder."""
    last = nn.ConvTranspose2d(12, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3)
    model, x = nn.Sequential(nn.Linear(6, 192), nn.ReLU(), reshape, *last), torch.randn(2, 6)
    check_network_of(trace(model, x), model, x, [12, 8], searches=False)


@layers(sizes=[8, 12], first=nn.Linear(6, 8), second=nn.Linear(8, 12), films=nn.Linear(5, 40))
@layers(head=nn.Linear(12, 3))
def Modulated(self: Any, x: Tensor, z: Tensor) -> Any:
    """Scales and shifts of two layers come from one layer, which a list of sizes cuts."""
    a, b, c, d = self.films(z).split([self.sizes[0]] * 2 + [self.sizes[1]] * 2, 1)
    x = (self.first(x) * a + b).relu()
    return self.head((self.second(x) * c + d).relu())


def test_sizes_of_a_list_follow_their_own_widths() -> None:
    model, inputs = Modulated(), (torch.randn(2, 6), torch.randn(2, 5))
    arch = trace(model, inputs)
    assert arch.base_widths == (8, 12)
    check_building(arch, inputs)
    smaller: Any = arch.build([5, 7])
    assert (smaller.sizes, model.sizes) == ([5, 7], [8, 12])


@layers(sizes=(22, 10, 12), first=nn.Linear(6, 44), last=nn.Linear(22, 3))
@layers(conv=nn.Conv1d(12, 12, 3, padding=1, groups=12))
def PartlyMixed(self: Any, x: Tensor) -> Any:
    """Gates for all channels, of which a convolution mixes some, as in MambaOut."""
    gates, kept, mixed = self.first(x).split(self.sizes, -1)
    mixed = self.conv(mixed.transpose(1, 2)).transpose(1, 2)
    return self.last(gates.relu() * torch.cat([kept, mixed], -1))


def test_a_size_that_two_widths_share_is_their_sum() -> None:
    model, x = PartlyMixed(), torch.randn(2, 5, 6)
    arch = trace(model, x)
    smaller: Any = arch.build([4, 5])
    assert smaller.sizes == (9, 4, 5)
    check_network_of(arch, model, x, [10, 12], searches=False)


class Gated(nn.Linear):
    """A layer of PyTorch that stores a size of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.part = outputs // 2

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y[:, : self.part] * y[:, self.part :].sigmoid()


def test_sizes_that_a_subclass_of_a_layer_adds_follow_the_widths() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Gated(8, 16), nn.Linear(8, 3))
    x = torch.randn(2, 4)
    arch = trace(model, x)
    assert arch.base_widths == (8, 8)
    check_building(arch, x)
    gated = arch.build([5, 3]).get_submodule("2")
    assert isinstance(gated, Gated)
    assert (gated.in_features, gated.out_features, gated.part) == (5, 6, 3)


class Fixed(enum.Enum):
    size = 12


@layers(sizes=None, first=nn.Linear(6, 12), last=nn.Linear(12, 3))
def Stateful(self: Any, x: Tensor) -> Any:
    """Reads a size from an object of configuration."""
    return self.last(x.new_zeros(x.shape[0], self.sizes.size) + self.first(x).relu())


def test_of_an_object_of_configuration_only_the_sizes_count_that_code_reads() -> None:
    model, x = Stateful(SimpleNamespace(size=12, vocabulary=12, rate=0.5)), torch.randn(2, 6)
    arch = trace(model, x)
    numbers = arch.network.adaptation.numbers
    assert [(number.name, number.inside) for number in numbers] == [("sizes", "size")]
    smaller: Any = arch.build([5])
    assert vars(smaller.sizes) == {"size": 5, "vocabulary": 12, "rate": 0.5}


@layers(one=SimpleNamespace(n=12), other=SimpleNamespace(n=20), fixed=Fixed.size)
@layers(first=nn.Linear(6, 12), second=nn.Linear(12, 20), last=nn.Linear(20, 12))
@layers(head=nn.Linear(12, 2))
def Pair(self: Any, x: Tensor) -> Any:
    """Two objects store different sizes under one name; an enumeration is no configuration."""
    x = self.first(x).relu().view(-1, self.one.n)
    x = self.last(self.second(x).relu().view(-1, self.other.n))
    return self.head(x.view(-1, self.fixed.value))


def test_each_object_of_configuration_follows_its_own_width() -> None:
    model, x = Pair(), torch.randn(2, 6)
    arch = trace(model, x)
    assert arch.base_widths == (12, 20)
    check_building(arch, x)
    smaller: Any = arch.build([5, 7])
    assert (smaller.one.n, smaller.other.n, Fixed.size.value) == (5, 7, 12)
