"""`prune` and `inherit` keep the units that a user names."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt import Architecture, NsoptError, trace
from nsopt.torchvision_import import import_torchvision
from tests.networks import layers
from tests.tracing import awkward
from tests.tracing.checks import randomise, skip_without_timm


def trace_chunks() -> tuple[Architecture, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = awkward.Chunks(), torch.randn(2, 3, 32, 32)
    return trace(model, x), model, x


UNITS_KEPT: list[tuple[Any, str]] = [
    ([], "give at least one unit of stem.0"),
    (torch.zeros(8, dtype=torch.bool), "give at least one unit of stem.0"),
    *(
        (units, "units to keep of stem.0 must be ascending integers below 8, or a mask of 8")
        for units in ([8], [-1], [2, 1], [1, 1], [0.0, 1.0], [[0, 1]], [True, False])
    ),
]


@pytest.mark.parametrize(("units", "message"), UNITS_KEPT, ids=str)
def test_invalid_units_to_keep_are_refused(units: Any, message: str) -> None:
    arch, model, _ = trace_chunks()
    with pytest.raises(NsoptError, match=message):
        arch.prune(model, [units, [0], [0]])
    with pytest.raises(NsoptError, match=message):
        arch.inherit(model, [units, [0], [0]], [8, 1, 1])
    with pytest.raises(NsoptError, match=r"give at most 1 units of stem\.0, got 2"):
        arch.inherit(model, [[0, 1], [0], [0]], [1, 1, 1])


def test_masks_keep_the_same_units_as_their_indices() -> None:
    arch, model, x = trace_chunks()
    kept = [torch.tensor([1, 6]), torch.tensor([0, 15]), torch.tensor([3])]
    masks = [
        torch.zeros(w, dtype=torch.bool).index_fill(0, k, True)
        for w, k in zip(arch.base_widths, kept, strict=True)
    ]
    pruned = arch.prune(model, kept).eval()
    for network in (arch.prune(model, masks), arch.inherit(model, masks, [2, 2, 1])):
        torch.testing.assert_close(network.eval()(x), pruned(x), rtol=0, atol=0)


@layers(a=nn.Conv2d(3, 16, 3), b=nn.Linear(16, 100))
def Squeezed(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x).mean((2, 3), keepdim=True).squeeze())


def test_a_single_unit_with_which_the_network_does_not_run_is_refused() -> None:
    model, x = Squeezed(), torch.randn(4, 3, 8, 8)
    arch = nsopt.trace(model, x)
    with pytest.raises(NsoptError, match="reduction dim"):
        arch.prune(model, [[0]])
    assert arch.prune(model, [[0, 5]])(x).shape == (4, 100)


def test_parameters_keep_the_attributes_that_code_gave_them() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    model[0].bias.no_weight_decay = True
    smaller: Any = nsopt.trace(model, torch.randn(2, 8)).prune(model, [range(4)])
    assert smaller[0].bias.no_weight_decay


def test_a_network_can_be_pruned_again() -> None:
    """Indices count the units that are left, also behind a concatenation."""
    arch, model, x = trace_chunks()
    randomise(model)
    first, second = [[1, 2, 6], [0, 3, 9, 15], [3, 20]], [[0, 2], [1, 3], [1]]
    twice = arch.prune(arch.prune(model, first), second).eval()
    once = arch.prune(model, [[a[i] for i in b] for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(twice(x), once.eval()(x), rtol=0, atol=0)


X = torch.randn(3, 3, 10, 10)


class Block(nn.Module):
    """Depthwise convolutions beside each other and beside nothing, as in RepVGG."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.groups, self.num_features = width, width, width
        self.wide = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.narrow = nn.Conv2d(width, width, 1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        nn.init.uniform_(self.norm.weight)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.wide(x) + self.narrow(x) + x).relu()

    def fuse(self) -> nn.Module:
        """Return one convolution and the ReLU."""
        kernel = self.wide.weight + functional.pad(self.narrow.weight, (1, 1, 1, 1))
        one = torch.zeros(self.width, self.width // self.groups, 3, 3)
        one[torch.arange(self.width), 0, 1, 1] = 1
        conv = nn.Conv2d(self.width, self.num_features, 3, padding=1, groups=self.groups)
        conv.weight.data.copy_(kernel + one)
        conv.bias.data.copy_(self.wide.bias + self.narrow.bias)  # type: ignore[operator]
        return nn.Sequential(nn.utils.fuse_conv_bn_eval(conv.eval(), self.norm), nn.ReLU())


class Pointwise(nn.Module):
    """Has as many inputs as outputs; the branches are added to one convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.offset = channels, out, 12
        self.first, self.second = nn.Conv2d(channels, out, 1), nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Any:
        return self.first(x) + self.second(x)

    def fuse(self) -> nn.Module:
        conv = nn.Conv2d(self.in_channels, self.out_channels, 1)
        conv.weight.data.copy_(self.first.weight + self.second.weight)
        conv.bias.data.copy_(self.first.bias + self.second.bias)  # type: ignore[operator]
        return conv


def make(*widths: int) -> nn.Sequential:
    """Return a network of two blocks, or of one block alone."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3)]
    for before, width in zip(widths, (*widths[1:], 4), strict=True):
        layers += [Block(before), Pointwise(before, width)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("widths", [(12, 12), (12, 20)])
@torch.no_grad()
def test_a_method_that_fuses_branches_works_in_a_smaller_network(widths: tuple[int, ...]) -> None:
    arch = nsopt.trace(model := make(*widths), X)
    assert arch.base_widths == widths
    smaller = arch.prune(model, [range(5 + i) for i in range(len(widths))]).eval()
    for network in (model, smaller, arch.build([4] * len(widths)).eval()):
        parts: Any = network
        assert [part.offset for part in parts if isinstance(part, Pointwise)] == [12] * len(widths)
        wanted = network(X)
        fused = nn.Sequential(*(part.fuse() if hasattr(part, "fuse") else part for part in parts))
        torch.testing.assert_close(fused(X), wanted)


@pytest.mark.networks
@pytest.mark.parametrize("name", ["mobileone_s0", "repvgg_a0"])
@torch.no_grad()
def test_networks_of_timm_are_fused_after_they_were_pruned(name: str) -> None:
    skip_without_timm()
    import_torchvision("ops")
    import timm
    from timm.utils.model import reparameterize_model

    model, x = timm.create_model(name, num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    arch = nsopt.trace(model, x)
    smaller = arch.prune(model, [range(width // 2) for width in arch.base_widths]).eval()
    wanted = smaller(x)
    torch.testing.assert_close(reparameterize_model(smaller)(x), wanted, rtol=1e-4, atol=1e-4)
