"""Code as practitioners write it, whose widths a trace must not get wrong without an error."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt import Architecture, NsoptError
from tests.networks import layers
from tests.tracing.checks import check_network_of, with_zeros

IMAGES = torch.rand(2, 3, 12, 12)


def check_costs(arch: Architecture, widths: tuple[int, ...], examples: Any = IMAGES) -> None:
    """Check that a network of other widths runs, and costs what its own trace says."""
    own = nsopt.trace(arch.build(widths), examples)
    for metric in ("params", "macs"):
        assert arch.cost(metric)(widths) == own.cost(metric)(own.base_widths), metric


@dataclass
class Output:
    logits: Tensor
    auxiliary: tuple[Tensor, None] | None = None


@layers(make=None, conv=nn.Conv2d(3, 16, 3), head=nn.Linear(16, 10))
def Returns(self: Any, x: Tensor) -> Any:
    """Returns its logits in some object."""
    return self.make(self.head(self.conv(x).relu().mean((2, 3))))


class Hidden:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def test_the_classes_in_a_dataclass_stay() -> None:
    arch = nsopt.trace(Returns(Output), IMAGES)
    assert (arch.base_widths, arch.num_classes) == ((16,), 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Hidden, "forward returns a Hidden: return tensors, or tuples, lists or dicts of them"),
        (lambda logits: logits.shape, "forward returns no tensor"),
    ],
)
def test_outputs_without_visible_tensors_are_refused(make: Any, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(Returns(make), IMAGES)


@layers(channels=8, steps=8, stem=nn.Conv2d(3, 8, 1), conv=nn.Conv2d(8, 8, 3, padding=1))
@layers(head=nn.Linear(8, 5))
def Refines(self: Any, x: Tensor) -> Any:
    """As many steps as channels, by chance."""
    x = self.stem(x)
    for _ in range(self.steps):
        x = self.conv(x).relu().view(-1, self.channels, *x.shape[2:])
    return self.head(x.mean((2, 3)))


def test_a_number_of_steps_does_not_follow_a_width() -> None:
    arch = nsopt.trace(Refines(), IMAGES)
    assert arch.build((4,)).steps == 8
    check_costs(arch, (4,))


@layers(stem=nn.Conv2d(3, 6, 1), conv=nn.Conv2d(6, 8, 1), both=nn.Bilinear(8, 6, 5))
@layers(other=nn.Bilinear(8, 5, 4))
def Bilinear(self: Any, x: Tensor) -> Any:
    stem = self.stem(x)
    pooled, first = self.conv(stem).mean((2, 3)), stem.mean((2, 3))
    return self.other(pooled, self.both(pooled, first).relu())


@layers(conv=nn.Conv2d(3, 8, 1), vector=nn.Parameter(torch.rand(8)), head=nn.Linear(8, 5))
def Pools(self: Any, x: Tensor) -> Any:
    """Pools places by their products with a vector."""
    places = self.conv(x).flatten(2).transpose(1, 2)
    weights = (places @ self.vector).softmax(1)
    return self.head((weights.unsqueeze(1) @ places).squeeze(1))


def test_the_products_of_a_bilinear_layer_and_of_a_vector_are_counted() -> None:
    model = Bilinear()
    arch = nsopt.trace(model, IMAGES)
    macs = 144 * (3 * 6 + 6 * 8) + 8 * 6 * 5 + 8 * 5 * 4
    assert arch.cost("macs")(arch.base_widths) == macs
    check_network_of(arch, model, IMAGES, [6, 8, 5], searches=True)
    arch = nsopt.trace(Pools(), IMAGES)
    assert arch.cost("macs")((8,)) == 144 * 3 * 8 + 144 * 8 + 144 * 8 + 8 * 5
    check_costs(arch, (6,))


@layers(combine=None, a=nn.Linear(6, 16), b=nn.Linear(6, 16), head=nn.Linear(5, 4))
def Combined(self: Any, x: Tensor) -> Any:
    """Two layers whose channels a function combines."""
    return self.head(self.combine(self.a(x), self.b(x)))


@pytest.mark.parametrize(
    "combine",
    [
        lambda a, b: (a.sigmoid() * b.sigmoid()).sum(2),
        lambda a, b: (functional.logsigmoid(a) * torch.polar(a.exp(), b).real).sum(2),
        lambda a, b: (a.exp() @ b.exp().transpose(1, 2)).mean(2),
        lambda a, b: (a @ b.transpose(1, 2) / a.shape[-1]).mean(2),
        lambda a, b: (a * b).sigmoid().cumsum(2).max(2).values,
    ],
    ids=["sum", "polar", "product", "scaled", "cumsum"],
)
def test_units_whose_zeros_count_in_a_sum_are_not_exact(combine: Any) -> None:
    model, x = Combined(combine), torch.randn(2, 5, 6)
    arch, kept = nsopt.trace(model, x), [np.arange(8)]
    pruned, masked = arch.prune(model, kept), with_zeros(arch, model, kept)
    assert not torch.allclose(pruned(x), masked(x))
    assert "a: 16 units, removing one may differ from setting it to zero" in arch.explain()


@layers(size=6, stem=nn.Linear(6, 8), sine=nn.Parameter(torch.rand(6)), queries=nn.Linear(8, 12))
@layers(values=nn.Linear(8, 12), head=nn.Linear(6, 4))
def Rotary(self: Any, x: Tensor) -> Any:
    """Rotates halves of its queries; its values have as many channels in a head, by one number."""
    x = self.stem(x).relu()
    q, v = (each(x).unflatten(2, (2, self.size)) for each in (self.queries, self.values))
    one, other = q.chunk(2, 3)
    near = (torch.cat([-other, one], 3) * self.sine @ q.transpose(2, 3)).softmax(3)
    return self.head((near @ v).mean((1, 2)))


@layers(a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 32, 3, padding=1, groups=4), c=nn.Conv2d(16, 8, 1))
@layers(head=nn.Linear(8, 5))
def Cardinal(self: Any, x: Tensor) -> Any:
    """ResNeSt: the inputs of four groups, and two halves of their outputs."""
    x = self.a(x)
    one, other = self.b(x).chunk(2, 1)
    return self.head(self.c(x + one * other.sigmoid()).mean((2, 3)))


@layers(a=nn.Conv2d(3, 32, 1), b=nn.Conv2d(32, 32, 1), c=nn.Conv2d(32, 32, 1))
@layers(first=nn.GroupNorm(8, 32), second=nn.GroupNorm(8, 32), scale=nn.Parameter(torch.ones(32)))
@layers(head=nn.Linear(32, 5))
def NamesOneNumber(self: Any, x: Tensor) -> Any:
    """Two norms that store how many groups they have, and one whose number the code names."""
    x = self.second(self.b(self.first(self.a(x)).relu())).relu()
    x = functional.group_norm(self.c(x), 8, self.scale)
    return self.head(x.relu().mean((2, 3)))


def test_other_groups_go_as_a_whole() -> None:
    model = NamesOneNumber()
    arch = nsopt.trace(model, IMAGES)
    assert [group.exact for group in arch.network.family.groups] == [True, True, False]
    check_network_of(arch, model, IMAGES, [8, 8, 4], searches=False)


@layers(a=nn.Linear(6, 8), b=nn.Linear(6, 16), head=nn.Linear(24, 4))
def Even(self: Any, x: Tensor) -> Any:
    """Runs at even widths of two layers together alone."""
    y = torch.cat([self.a(x), self.b(x)], 1)
    assert y.shape[1] % 2 == 0
    return self.head(y)


def test_a_width_that_cannot_lose_one_unit_is_fixed() -> None:
    """Both run at two thirds and at four thirds of their widths, and if both lose one unit."""
    with pytest.raises(NsoptError, match=r"a: assert .* % 2"):
        nsopt.trace(Even(), torch.rand(2, 6))


@layers(a=nn.Linear(3, 16), b=nn.Linear(16, 24), c=nn.Linear(24, 24), head=nn.Linear(24, 5))
def ComparesShapes(self: Any, x: Tensor) -> Any:
    """Adds a shortcut wherever two shapes are equal."""
    for each in (self.a, self.b, self.c):
        y = each(x).relu()
        x = x + y if x.shape == y.shape else y
    return self.head(x)


def test_widths_at_which_the_code_adds_a_shortcut_are_refused() -> None:
    model = ComparesShapes()
    arch = nsopt.trace(model, torch.rand(2, 3))
    assert arch.base_widths == (16, 24)
    assert arch.prune(model, [range(11), range(12)])(torch.rand(2, 3)).shape == (2, 5)
    with pytest.raises(NsoptError, match="the code adds tensors only if their shapes are equal"):
        arch.prune(model, [range(12), range(12)])
    with pytest.raises(NsoptError, match="combines its channels in another way"):
        arch.inherit(model, [range(12), range(12)], [12, 12])


@layers(gates=nn.Linear(6, 3), one=nn.Linear(6, 8), other=nn.Linear(6, 8), out=nn.Linear(8, 2))
def Gated(self: Any, x: Tensor) -> Any:
    """Reads the gates one by one, as slices, of which fewer gates leave some empty."""
    gates = self.gates(x).softmax(-1)
    y = self.one(x).relu() * gates[:, 1:2] + self.other(x).relu() * gates[:, 2:3]
    return self.out(y)


@layers(blur=None, a=nn.Conv2d(3, 12, 3), b=nn.Conv2d(12, 5, 3))
@layers(filter=nn.Buffer(torch.rand(1, 1, 4, 4)))
def Blurs(self: Any, x: Tensor) -> Any:
    """Repeats one filter for all channels, which may write four pixels for each that it reads."""
    y = self.a(x)
    return self.b(self.blur(y, self.filter.expand(y.shape[1], -1, -1, -1), groups=y.shape[1]))


@layers(hidden=10, first=nn.Linear(3, 4), cell=nn.GRUCell(4, 10), out=nn.Linear(10, 3))
def WritesSteps(self: Any, x: Tensor) -> Any:
    """Writes its states into a tensor of zeros, step by step."""
    state, steps = x.new_zeros(len(x), self.hidden), x.flatten(2).mT[:, :4]
    states = x.new_zeros(len(x), steps.shape[1], self.hidden)
    for t in range(steps.shape[1]):
        state = self.cell(self.first(steps[:, t]), state)
        states[:, t] = state
    return self.out(states)


@layers(embed=nn.Linear(144, 12), norm=nn.BatchNorm1d(3), out=nn.Linear(12, 3))
@layers(mix=nn.Sequential(nn.Conv1d(3, 10, 1), nn.GELU(), nn.Conv1d(10, 3, 1)))
def MixesTokens(self: Any, x: Tensor) -> Any:
    """Convolutions of one place over tokens, whose features are the places."""
    y = self.embed(x.flatten(2))
    return self.out(y + self.mix(self.norm(y)))


IN_GROUPS = [
    *(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 2, 2, groups=4), nn.ReLU()),
    *(nn.Conv2d(16, 24, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)),
]
NARROW_GROUPS = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2, groups=4), nn.ReLU()
WHOLE = [
    (Gated(), torch.randn(2, 6), [8], False),
    (Blurs(functional.conv2d), IMAGES, [12], False),
    (Blurs(functional.conv_transpose2d), IMAGES, [12], False),
    (WritesSteps(), IMAGES, [4, 10], False),
    (MixesTokens(), IMAGES, [12, 10], False),
    (Rotary(), torch.randn(4, 5, 6), [8, 3], False),  # pairs are removed together
    (Cardinal(), IMAGES, [4, 8], True),  # groups lose the same channels
    (nn.Sequential(*IN_GROUPS), IMAGES, [2, 4, 24], True),
    (nn.Sequential(*NARROW_GROUPS), IMAGES, [2], True),
]


@pytest.mark.parametrize(("model", "x", "widths", "searches"), WHOLE)
def test_widths_beside_fixed_ones_are_free(
    model: nn.Module, x: Tensor, widths: list[int], searches: bool
) -> None:
    check_network_of(nsopt.trace(model, x), model, x, widths, searches)


def test_a_transposed_convolution_of_one_channel_a_group_is_refused() -> None:
    wide = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 2, groups=8), nn.ReLU())
    with pytest.raises(NsoptError, match="belongs to a transposed grouped convolution"):
        nsopt.trace(wide, IMAGES)


@pytest.mark.parametrize("examples", [2, 16])
def test_units_do_not_depend_on_the_number_of_examples(examples: int) -> None:
    encoder = nn.TransformerEncoderLayer(64, 4, 32, batch_first=True)
    model = nn.Sequential(nn.Linear(5, 64), encoder, nn.Linear(64, 3))
    assert nsopt.trace(model, torch.randn(examples, 10, 5)).base_widths == (16, 32)
