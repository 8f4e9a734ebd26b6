"""Small networks that are hard for tools that follow channels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.networks import layers


def block(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x.mean((2, 3)))


@layers(stem=block(3, 8), halves=block(8, 32, 1), joined=block(64, 24, 1), head=Head(24))
@layers(blocks=nn.ModuleList([block(16, 16), block(16, 16)]))
def Chunks(self: Any, x: Tensor) -> Any:
    """YOLO's C2f: halves of a map, one of which goes through blocks, all concatenated."""
    parts = list(self.halves(self.stem(x)).chunk(2, 1))
    for each in self.blocks:
        parts.append(parts[-1] + each(parts[-1]))
    return self.head(self.joined(torch.cat(parts, 1)))


@layers(expanded=32, expand=block(8, 32, 1), inner=block(16, 16), join=block(32, 24, 1))
def CrossStage(self: Any, x: Tensor) -> Any:
    """CSPNet's stage: halves by a size that it stores, two levels above its weights."""
    one, other = self.expand(x).split(self.expanded // 2, 1)
    return self.join(torch.cat([one, self.inner(other)], 1))


@layers(stem=block(3, 8), stage=CrossStage(), head=Head(24))
def CrossStaged(self: Any, x: Tensor) -> Any:
    return self.head(self.stage(self.stem(x)))


class Blur(nn.Module):
    """Filters each channel; the module stores how many there are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filter", torch.ones(channels, 1, 2, 2) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.get_buffer("filter"), stride=2, groups=self.channels)


@layers(a=block(3, 16), blur=Blur(16), b=block(16, 24), head=Head(24))
def CountedChannels(self: Any, x: Tensor) -> Any:
    return self.head(self.b(self.blur(self.a(x))))


@layers(a=block(3, 16), c=block(16, 24), head=Head(24), sizes=[8, 8])
@layers(each=nn.ModuleList([block(8, 8, kernel, 1, 8) for kernel in (3, 5)]))
def MixedKernels(self: Any, x: Tensor) -> Any:
    """MixNet: halves of the channels, whose sizes are a list, have kernels of their own."""
    parts = self.a(x).split(self.sizes, 1)
    x = torch.cat([each(part) for each, part in zip(self.each, parts, strict=True)], 1)
    return self.head(self.c(x))


@layers(a=block(3, 16), b=block(16, 16), c=block(16, 24), head=Head(24))
def Cropped(self: Any, x: Tensor) -> Any:
    """GhostNet: keeps a fixed number of first channels, with a shortcut."""
    x = self.b(self.a(x))
    return self.head(self.c(x[:, :16] * x.sigmoid()))


@layers(a=block(3, 16), b=block(16, 16), c=block(16, 32, 3, 2), head=Head(32))
def PaddedShortcut(self: Any, x: Tensor) -> Any:
    """ResNet's option A: a shortcut padded with zeros."""
    x = self.a(x)
    x = x + self.b(x)
    shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    return self.head((self.c(x) + shortcut).relu())


@layers(a=nn.Conv2d(3, 32, 3), b=nn.Conv2d(32, 64, 3), c=nn.Conv2d(64, 24, 3))
@layers(group=nn.GroupNorm(8, 32), layer=nn.GroupNorm(1, 64))
@layers(instance=nn.InstanceNorm2d(24, affine=True), head=Head(24))
def Norms(self: Any, x: Tensor) -> Any:
    """Group, layer-like and instance normalisation."""
    x = self.group(self.a(x)).relu()
    return self.head(self.instance(self.c(self.layer(self.b(x)).relu())))


class UpAndDown(nn.Module):
    """A U-Net: transposed convolution, resize, concatenation; its output is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 16), block(16, 32, 3, 2), block(32, 16)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.a(x)
        joined = torch.cat([a, self.up(self.b(a))], 1)
        return {"out": self.out(functional.interpolate(self.c(joined), scale_factor=2))}


@layers(a=block(3, 64), b=block(16, 24), head=Head(24))
def Shuffled(self: Any, x: Tensor) -> Any:
    return self.head(self.b(functional.pixel_shuffle(self.a(x), 2)))


@layers(a=block(3, 16), b=block(10, 24), c=block(24, 24), head=Head(24))
def UnequalParts(self: Any, x: Tensor) -> Any:
    return self.head(self.c(self.b(self.a(x)[:, :10])))


WRITTEN: dict[str, Any] = {"a": block(3, 16), "b": block(16, 8)}
WRITTEN |= {"hidden": nn.Linear(8 * 64, 32), "out": nn.Linear(32, 10)}


@layers(**WRITTEN)
def WrittenSize(self: Any, x: Tensor) -> Any:
    """Flattens to a size written in its code."""
    x = functional.max_pool2d(self.b(self.a(x)), 4)
    return self.out(self.hidden(x.view(-1, 8 * 64)).relu())


@layers(**WRITTEN)
def Flattened(self: Any, x: Tensor) -> Any:
    """Flattens to any size."""
    x = functional.max_pool2d(self.b(self.a(x)), 4)
    return self.out(self.hidden(torch.flatten(x, 1)).relu())


@layers(a=block(3, 16), b=block(3, 24), c=block(40, 16), head=Head(16))
@layers(scale=nn.Parameter(torch.randn(1, 16, 1, 1)))
def RawParameter(self: Any, x: Tensor) -> Any:
    return self.head(self.c(torch.cat([self.a(x) * self.scale, self.b(x)], 1)))


@layers(a=block(3, 16), dead=block(16, 16), head=Head(16))
def Unused(self: Any, x: Tensor) -> Any:
    return self.head(self.a(x))


@layers(a=block(3, 16), b=block(16, 24), head=Head(24))
def Features(self: Any, x: Tensor) -> Any:
    """Returns a map as well, whose channels must therefore stay."""
    x = self.a(x)
    return self.head(self.b(x)), x


@layers(a=block(3, 32, 3, 4), attention=nn.MultiheadAttention(32, 4, batch_first=True))
@layers(mlp=nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)), norm=nn.LayerNorm(32))
@layers(out=nn.Linear(32, 10))
def Transformer(self: Any, x: Tensor) -> Any:
    """Only whole heads of the attention can change, but any unit of the MLP."""
    x = self.a(x).flatten(2).transpose(1, 2)
    x = x + self.attention(x, x, x)[0]
    return self.out(self.norm(x + self.mlp(x)).mean(1))


@layers(a=block(3, 32), c=block(32, 24, 1), head=Head(24))
@layers(each=nn.ModuleList([block(8, 8) for _ in range(3)]))
def Pieces(self: Any, x: Tensor) -> Any:
    """Res2Net: quarters of a map; each is added to the next one."""
    first, *others = self.a(x).chunk(4, 1)
    parts = [first]
    for i, (part, each) in enumerate(zip(others, self.each, strict=True)):
        parts.append(each(part + parts[-1] if i else part))
    return self.head(self.c(torch.cat(parts, 1)))


@layers(a=block(3, 16), b=block(16, 24), c=block(16, 40), d=block(40, 8), head=Head(8))
def SumOfJoined(self: Any, x: Tensor) -> Any:
    """A width that is the sum of two others."""
    x = self.a(x)
    return self.head(self.d(torch.cat([x, self.b(x)], 1) + self.c(x)))


@layers(a=block(3, 16), b=block(32, 24), c=block(24, 12), head=Head(12))
def Assigned(self: Any, x: Tensor) -> Any:
    """Writes into a part of a tensor."""
    x = self.a(x)
    wide = torch.zeros(x.shape[0], 2 * x.shape[1], *x.shape[2:], dtype=x.dtype)
    wide[:, : x.shape[1]] = x
    return self.head(self.c(self.b(wide)))


@layers(a=block(3, 24), b=block(24, 48, 3, 1, 3), c=block(48, 96, 3, 1, 48), d=block(96, 16, 1))
@layers(head=Head(16))
def Grouped(self: Any, x: Tensor) -> Any:
    return self.head(self.d(self.c(self.b(self.a(x)))))


@layers(a=block(3, 16), b=block(16, 24), c=block(24, 12), head=Head(12))
def Unruled(self: Any, x: Tensor) -> Any:
    """An operation that no rule knows."""
    x = self.b(self.a(x))
    return self.head(self.c(x + torch.linalg.matrix_exp(x / 32)))


@layers(a=block(3, 16), b=block(16, 16), head=Head(16))
def Deciding(self: Any, x: Tensor) -> Any:
    """Control flow on values."""
    x = self.a(x)
    return self.head(self.b(x) if x.sum() > 0 else x)


@layers(out=nn.Linear(3, 10))
def LinearOnly(self: Any, x: Tensor) -> Any:
    """No width can change, because its only layer makes the output."""
    return self.out(x.mean((2, 3)))
