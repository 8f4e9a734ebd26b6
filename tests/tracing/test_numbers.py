"""Numbers that code computes from widths: exact units are exact, and attributes follow."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.errors import NsoptError
from nsopt.models.trace import trace
from tests.tracing.checks import check_building, check_network_of, with_zeros


class Scaled(nn.Module):
    """Four layers, the second with a scale that `scale` computes from its weight or its input."""

    def __init__(self, scale: Callable[[Tensor, Tensor], Tensor | float]) -> None:
        super().__init__()
        sizes = (6, 8, 10, 12, 4)
        self.layers = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            y = layer(x)
            x = (y * self.scale(layer.weight, x) if i == 1 else y).relu()
        return x


@pytest.mark.parametrize(
    ("scale", "inexact"),
    [
        (lambda w, x: 1 / math.sqrt(w.shape[1] * 9), [0]),  # equalised learning rate
        (lambda w, x: 1 / x.new_ones(x.shape[1]).sum(), [0]),
        (lambda w, x: 1 / torch.arange(x.shape[1]).float().mean(), [0]),
        (lambda w, x: 1 / w.shape[0], [1]),
        (lambda w, x: w.numel() ** -0.5, [0, 1]),
        (lambda w, x: torch.tensor(float(x.size(1))), [0]),
        (lambda w, x: torch.full((1,), len(w)), [1]),
        (lambda w, x: w.shape[1] // w.shape[1] + 0.5, []),
        (lambda w, x: len(x) * 2, []),
    ],
)
def test_units_with_whose_number_the_code_calculates_are_not_exact(
    scale: Callable[[Tensor, Tensor], Tensor | float], inexact: list[int]
) -> None:
    torch.manual_seed(0)
    model, x = Scaled(scale).double(), torch.randn(2, 6, dtype=torch.float64)
    arch = trace(model, x)
    found = [i for i, group in enumerate(arch.network.family.groups) if not group.exact]
    assert found == inexact
    for removed in range(3):
        kept = [np.arange(n - 2 * (i == removed)) for i, n in enumerate(arch.base_widths)]
        pruned, masked = arch.prune(model, kept), with_zeros(arch, model, kept)
        assert torch.allclose(pruned(x), masked(x)) == (removed not in inexact)


def average(y: Tensor, around: int) -> Tensor:
    return functional.avg_pool1d(y[..., None], 1 + 2 * around, 1, around)[..., 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y * (1.0 if y.shape[1] > 48 else 0.25),
        lambda y: y * (y.shape[1] // 32),
        lambda y: y * min(y.shape[1], 24),
        lambda y: y * math.ceil(y.shape[1] / 30),
        lambda y: functional.relu(y) if y.shape[1] > 48 else torch.tanh(y),
        lambda y: sum(y * 0.5 for _ in range(y.shape[1] // 20)),
        lambda y: average(y, y.shape[1] // 48),
    ],
    ids=["threshold", "floor", "minimum", "ceiling", "function", "repetition", "kernel"],
)
def test_sizes_that_the_code_rounds_or_compares_are_seen(change: Callable[[Tensor], Any]) -> None:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 64), nn.Linear(64, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Any:
            return self.c(self.b(change(self.a(x).relu())).relu())

    groups = trace(Changed(), torch.randn(2, 6)).network.family.groups
    assert [group.exact for group in groups] == [False, True]


def test_a_layer_that_cannot_be_narrow_hides_no_other() -> None:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 64), nn.Linear(64, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.a(x).relu()
            y = self.b(y * (1.0 if y.shape[1] > 40 else 0.25)).relu()
            assert y.shape[1] > 9
            return self.c(y)

    groups = trace(Guarded(), torch.randn(2, 6)).network.family.groups
    assert [group.exact for group in groups] == [False, True]


def test_numbers_that_are_computed_once_mark_nothing() -> None:
    cached: list[Tensor] = []

    def scale(*_: Tensor) -> float:
        if not cached:
            cached.append(torch.ones(3) * 5)
        return 2.0

    assert "may differ" not in trace(Scaled(scale), torch.randn(2, 6)).explain()


class Equalised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight / math.sqrt(self.weight.shape[1] * 9), padding=1)


def test_equalised_learning_rates_are_marked_in_every_layer() -> None:
    model = nn.Sequential(*(Equalised(a, b, 3) for a, b in [(3, 16), (16, 16), (16, 8), (8, 2)]))
    lines = trace(model, torch.randn(2, 3, 8, 8)).explain().splitlines()[1:4]
    assert all("removing one may differ from setting it to zero" in line for line in lines)


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


class Denoiser(nn.Module):
    """The attributes `channels` follow the inner width, which equals that of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = Conditioned(8)
        self.down = nn.ModuleList([Conditioned(4), Conditioned(8)])
        self.last = nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        for block in (*self.down, self.middle):
            x = block(x, code)
        last: Tensor = self.last(x)
        return last


def test_an_attribute_follows_the_same_axis_in_all_blocks() -> None:
    torch.manual_seed(0)
    model, x = Denoiser(), (torch.randn(2, 4, 5), torch.randn(2, 3))
    check_network_of(trace(model, x), model, x, [8, 8, 8, 8], searches=False)


class Resettable(nn.Module):
    """As in timm: `reset` reads a size that `forward` does not, and `steps` is none, by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features, self.num_steps, self.dim = 8, 8, 8
        self.stem, self.mixer = nn.Linear(6, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
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


class Unembed(nn.Module):
    """A module without tensors that stores a size, as in SwinIR."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed_dim = size

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).view(len(x), self.embed_dim, 3, 3)


def test_sizes_in_modules_without_tensors_follow_the_widths() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Unembed(8), nn.Conv2d(8, 4, 3))
    arch = trace(model, torch.randn(2, 9, 6))
    assert arch.base_widths == (8,)
    assert arch.build([5])(torch.randn(2, 9, 6)).shape == (2, 4, 1, 1)


class Reshape(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), *self.shape)


@pytest.mark.parametrize("reshape", [nn.Unflatten(1, (12, 4, 4)), Reshape(12, 4, 4)])
def test_a_size_in_a_shape_follows_the_width(reshape: nn.Module) -> None:
    """The decoder of an autoencoder."""
    last = nn.ConvTranspose2d(12, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3)
    model, x = nn.Sequential(nn.Linear(6, 192), nn.ReLU(), reshape, *last), torch.randn(2, 6)
    check_network_of(trace(model, x), model, x, [12, 8], searches=False)


class Modulated(nn.Module):
    """Scales and shifts of two layers come from one layer, which a list of sizes cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [8, 12]
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 12)
        self.films, self.head = nn.Linear(5, 40), nn.Linear(12, 3)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        a, b, c, d = self.films(z).split([self.sizes[0]] * 2 + [self.sizes[1]] * 2, 1)
        x = (self.first(x) * a + b).relu()
        out: Tensor = self.head((self.second(x) * c + d).relu())
        return out


def test_sizes_of_a_list_follow_their_own_widths() -> None:
    model, inputs = Modulated(), (torch.randn(2, 6), torch.randn(2, 5))
    arch = trace(model, inputs)
    assert arch.base_widths == (8, 12)
    check_building(arch, inputs)
    smaller = arch.build([5, 7])
    assert isinstance(smaller, Modulated)
    assert (smaller.sizes, model.sizes) == ([5, 7], [8, 12])


class PartlyMixed(nn.Module):
    """Gates for all channels, of which a convolution mixes some, as in MambaOut."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (22, 10, 12)
        self.first, self.last = nn.Linear(6, 44), nn.Linear(22, 3)
        self.conv = nn.Conv1d(12, 12, 3, padding=1, groups=12)

    def forward(self, x: Tensor) -> Tensor:
        gates, kept, mixed = self.first(x).split(self.sizes, -1)
        mixed = self.conv(mixed.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.last(gates.relu() * torch.cat([kept, mixed], -1))
        return out


def test_a_size_that_two_widths_share_is_their_sum() -> None:
    model, x = PartlyMixed(), torch.randn(2, 5, 6)
    arch = trace(model, x)
    assert arch.base_widths == (10, 12)
    smaller = arch.build([4, 5])
    assert isinstance(smaller, PartlyMixed)
    assert smaller.sizes == (9, 4, 5)
    check_network_of(arch, model, x, [10, 12], searches=False)


class Doubled(nn.Module):
    """A size is twice a width, and by chance the sum of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 16
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(6, 6), nn.Linear(6, 10)
        self.last, self.head = nn.Linear(16, 3), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x).relu()
        rows = torch.cat([one, one * 2, one * 3, one * 4], -1).view(len(x), 2, self.size)
        other = torch.cat([self.b(x), self.c(x)], -1).relu()
        out: Tensor = self.last(other) + self.head(rows.tanh().flatten(1))
        return out


def test_a_size_may_be_a_multiple_of_one_width_and_by_chance_the_sum_of_others() -> None:
    x = torch.randn(2, 6)
    arch = trace(Doubled(), x)
    assert sorted(arch.base_widths) == [6, 8, 10]
    check_building(arch, x)


class Gated(nn.Linear):
    """A layer of PyTorch that stores a size of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.part = outputs // 2

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y[:, : self.part] * y[:, self.part :].sigmoid()


def test_sizes_that_a_subclass_of_a_layer_adds_follow_the_widths() -> None:
    model, x = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Gated(8, 16), nn.Linear(8, 3)),
        torch.randn(2, 4),
    )
    arch = trace(model, x)
    assert arch.base_widths == (8, 8)
    check_building(arch, x)
    gated = arch.build([5, 3]).get_submodule("2")
    assert isinstance(gated, Gated)
    assert (gated.in_features, gated.out_features, gated.part) == (5, 6, 3)


class Sizes:
    size = 12


@dataclass(frozen=True)
class FrozenSizes:
    size: int = 12


class Named(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class Fixed(enum.Enum):
    size = 12


class Itself(Sizes):
    def __init__(self) -> None:
        self.size = 12

    def __copy__(self) -> "Itself":
        return self


class Uncopied(Sizes):
    def __init__(self) -> None:
        self.size = 12

    def __copy__(self) -> None:
        raise TypeError("this configuration cannot be copied")


class Stateful(nn.Module):
    """Reads a size from an object of configuration."""

    def __init__(self, sizes: Any) -> None:
        super().__init__()
        self.sizes = sizes
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.sizes.size)
        out: Tensor = self.last(state + self.first(x).relu())
        return out


@pytest.mark.parametrize(
    "sizes", [Sizes(), FrozenSizes(), SimpleNamespace(size=12), Named(size=12)]
)
def test_sizes_in_objects_of_configuration_follow_the_widths(sizes: Any) -> None:
    model, x = Stateful(sizes), torch.randn(2, 6)
    arch = trace(model, x)
    check_building(arch, x)
    smaller = arch.build([5])
    assert isinstance(smaller, Stateful)
    assert (smaller.sizes.size, model.sizes.size) == (5, 12)
    assert type(smaller.sizes) is type(sizes)


@pytest.mark.parametrize("sizes", [Uncopied(), Itself()])
def test_a_configuration_of_which_no_copy_can_be_made_keeps_its_sizes(sizes: Sizes) -> None:
    with pytest.raises(NsoptError, match="no width of this network can change: first: "):
        trace(Stateful(sizes), torch.randn(2, 6))
    assert sizes.size == 12


def test_of_an_object_of_configuration_only_the_sizes_count_that_code_reads() -> None:
    model, x = Stateful(SimpleNamespace(size=12, vocabulary=12, rate=0.5)), torch.randn(2, 6)
    arch = trace(model, x)
    numbers = arch.network.adaptation.numbers
    assert [(number.name, number.inside) for number in numbers] == [("sizes", "size")]
    smaller = arch.build([5])
    assert isinstance(smaller, Stateful)
    assert vars(smaller.sizes) == {"size": 5, "vocabulary": 12, "rate": 0.5}


class Few(nn.Module):
    """Reads a small size, with which tensors of size 1 run, too."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = SimpleNamespace(size=2)
        self.first, self.last = nn.Linear(6, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.sizes.size)
        out: Tensor = self.last(state + self.first(x).relu())
        return out


class Squared(nn.Module):
    """Reads two sizes at once; a third one is equal."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = SimpleNamespace(rows=12, columns=12, vocabulary=12)
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        pairs = (y[:, :, None] * y[:, None]).view(-1, self.sizes.rows, self.sizes.columns)
        out: Tensor = self.last(pairs.sum(1))
        return out


@pytest.mark.parametrize("model", [Few(), Squared()])
def test_sizes_count_as_read_if_a_wrong_one_fails(model: Few | Squared) -> None:
    x = torch.randn(2, 6)
    arch = trace(model, x)
    assert arch.base_widths == (model.first.out_features,)
    check_building(arch, x)
    assert {number.inside for number in arch.network.adaptation.numbers} == {
        key for key in vars(model.sizes) if key != "vocabulary"
    }


class Pair(nn.Module):
    """Two objects store different sizes under one name; an enumeration is no configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.fixed = SimpleNamespace(n=12), SimpleNamespace(n=20), Fixed.size
        self.first, self.second, self.last = nn.Linear(6, 12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu().view(-1, self.one.n)
        x = self.last(self.second(x).relu().view(-1, self.other.n))
        out: Tensor = self.head(x.view(-1, self.fixed.value))
        return out


def test_each_object_of_configuration_follows_its_own_width() -> None:
    model, x = Pair(), torch.randn(2, 6)
    arch = trace(model, x)
    assert arch.base_widths == (12, 20)
    check_building(arch, x)
    smaller = arch.build([5, 7])
    assert isinstance(smaller, Pair)
    assert (smaller.one.n, smaller.other.n, Fixed.size.value) == (5, 7, 12)


class Sized(nn.Module):
    """Stores how many inputs it has; its first layer makes as many channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.pre, self.post = nn.Linear(inputs, inputs), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.post(self.pre(x.view(-1, 1, self.inputs)[:, 0]))
        return y


class SizedWithin(Sized):
    """Reads the number behind its first layer instead."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.post(self.pre(x).view(-1, 1, self.inputs)[:, 0])
        return y


@pytest.mark.parametrize("kind", [Sized, SizedWithin])
@pytest.mark.parametrize("sizes", [(16, 32, 7), (16, 32, 16, 7), (16, 16, 16, 7)])
def test_a_stored_size_that_equals_two_widths_fixes_neither(
    kind: type[Sized], sizes: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*map(kind, sizes, sizes[1:])).double()
    x = torch.randn(6, 16, dtype=torch.float64)
    arch = trace(model, x)
    assert arch.base_widths == tuple(np.repeat(sizes, 2)[1:-2])
    smaller = arch.prune(model, [range(width // 2) for width in arch.base_widths])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(f"{len(model) - 1}.post"):
                parameter[len(parameter) // 2 :] = 0
    torch.testing.assert_close(smaller(x), model(x))
