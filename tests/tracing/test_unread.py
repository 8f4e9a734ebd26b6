"""Sizes that `forward` does not read, but other methods do, follow the widths."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt.torchvision_import import import_torchvision
from tests.tracing.checks import skip_without_timm

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


@pytest.mark.parametrize("widths", [(12,), (12, 12), (12, 20), (12, 20, 20)])
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
