"""Small networks that are hard for tools that follow channels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def block(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class Chunks(nn.Module):
    """YOLO's C2f: halves of a map, one of which goes through blocks, all concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.halves = block(3, 8), block(8, 32, 1)
        self.blocks = nn.ModuleList([block(16, 16) for _ in range(2)])
        self.joined, self.head = block(64, 24, 1), Head(24)

    def forward(self, x: Tensor) -> Any:
        parts = list(self.halves(self.stem(x)).chunk(2, 1))
        for each in self.blocks:
            parts.append(parts[-1] + each(parts[-1]))
        return self.head(self.joined(torch.cat(parts, 1)))


class CrossStage(nn.Module):
    """CSPNet's stage: halves by a size that it stores, two levels above its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.expanded = 32
        self.expand, self.inner, self.join = block(8, 32, 1), block(16, 16), block(32, 24, 1)

    def forward(self, x: Tensor) -> Any:
        one, other = self.expand(x).split(self.expanded // 2, 1)
        return self.join(torch.cat([one, self.inner(other)], 1))


class CrossStaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage, self.head = block(3, 8), CrossStage(), Head(24)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.stage(self.stem(x)))


class Blur(nn.Module):
    """Filters each channel; the module stores how many there are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filter", torch.ones(channels, 1, 2, 2) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.get_buffer("filter"), stride=2, groups=self.channels)


class CountedChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.blur, self.b, self.head = block(3, 16), Blur(16), block(16, 24), Head(24)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.b(self.blur(self.a(x))))


class MixedKernels(nn.Module):
    """MixNet: halves of the channels, whose sizes are a list, have kernels of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.head = block(3, 16), block(16, 24), Head(24)
        self.sizes = [8, 8]
        self.each = nn.ModuleList([block(8, 8, kernel, 1, 8) for kernel in (3, 5)])

    def forward(self, x: Tensor) -> Any:
        parts = self.a(x).split(self.sizes, 1)
        x = torch.cat([each(part) for each, part in zip(self.each, parts, strict=True)], 1)
        return self.head(self.c(x))


class Cropped(nn.Module):
    """GhostNet: keeps a fixed number of first channels, with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 16), block(16, 16)
        self.c, self.head = block(16, 24), Head(24)

    def forward(self, x: Tensor) -> Any:
        x = self.b(self.a(x))
        return self.head(self.c(x[:, :16] * x.sigmoid()))


class PaddedShortcut(nn.Module):
    """ResNet's option A: a shortcut padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = (
            block(3, 16),
            block(16, 16),
            block(16, 32, 3, 2),
            Head(32),
        )

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        x = x + self.b(x)
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return self.head((self.c(x) + shortcut).relu())


class Norms(nn.Module):
    """Group, layer-like and instance normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 24, 3)
        self.group, self.layer = nn.GroupNorm(8, 32), nn.GroupNorm(1, 64)
        self.instance, self.head = nn.InstanceNorm2d(24, affine=True), Head(24)

    def forward(self, x: Tensor) -> Any:
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


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 64), block(16, 24), Head(24)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.b(functional.pixel_shuffle(self.a(x), 2)))


class Attentive(nn.Module):
    """CBAM: a mean and a maximum over channels weigh places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.places, self.head = (
            block(3, 16),
            block(16, 24),
            nn.Conv2d(2, 1, 7, 1, 3),
            Head(24),
        )

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(self.b(x * self.places(seen).sigmoid()))


class UnequalParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 16), block(10, 24), block(24, 24), Head(24)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.c(self.b(self.a(x)[:, :10])))


class WrittenSize(nn.Module):
    """Flattens to a size written in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 16), block(16, 8)
        self.hidden, self.out = nn.Linear(8 * 64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        x = functional.max_pool2d(self.b(self.a(x)), 4)
        return self.out(self.hidden(x.view(-1, 8 * 64)).relu())


class Flattened(WrittenSize):
    """Flattens to any size."""

    def forward(self, x: Tensor) -> Any:
        x = functional.max_pool2d(self.b(self.a(x)), 4)
        return self.out(self.hidden(torch.flatten(x, 1)).relu())


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(16, 16), Head(16)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.b(self.b(self.a(x))))


class RawParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 16), block(3, 24), block(40, 16), Head(16)
        self.scale = nn.Parameter(torch.randn(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.c(torch.cat([self.a(x) * self.scale, self.b(x)], 1)))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.dead, self.head = block(3, 16), block(16, 16), Head(16)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.a(x))


class Features(nn.Module):
    """Returns a map as well, whose channels must therefore stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(16, 24), Head(24)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        return self.head(self.b(x)), x


class Transformer(nn.Module):
    """Only whole heads of the attention can change, but any unit of the MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.a = block(3, 32, 3, 4)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x)[0]
        return self.out(self.norm(x + self.mlp(x)).mean(1))


class Pieces(nn.Module):
    """Res2Net: quarters of a map; each is added to the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.head = block(3, 32), block(32, 24, 1), Head(24)
        self.each = nn.ModuleList([block(8, 8) for _ in range(3)])

    def forward(self, x: Tensor) -> Any:
        first, *others = self.a(x).chunk(4, 1)
        parts = [first]
        for i, (part, each) in enumerate(zip(others, self.each, strict=True)):
            parts.append(each(part + parts[-1] if i else part))
        return self.head(self.c(torch.cat(parts, 1)))


class SumOfJoined(nn.Module):
    """A width that is the sum of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 16), block(16, 24), block(16, 40)
        self.d, self.head = block(40, 8), Head(8)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        return self.head(self.d(torch.cat([x, self.b(x)], 1) + self.c(x)))


class JoinedWithItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(32, 24), Head(24)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        return self.head(self.b(torch.cat([x, x], 1)))


class Assigned(nn.Module):
    """Writes into a part of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 16), block(32, 24), block(24, 12), Head(12)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        wide = torch.zeros(x.shape[0], 2 * x.shape[1], *x.shape[2:], dtype=x.dtype)
        wide[:, : x.shape[1]] = x
        return self.head(self.c(self.b(wide)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 24), block(24, 48, 3, 1, 3), block(48, 96, 3, 1, 48)
        self.d, self.head = block(96, 16, 1), Head(16)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.d(self.c(self.b(self.a(x)))))


class Unruled(nn.Module):
    """An operation that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 16), block(16, 24), block(24, 12), Head(12)

    def forward(self, x: Tensor) -> Any:
        x = self.b(self.a(x))
        return self.head(self.c(x + torch.linalg.matrix_exp(x / 32)))


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(96, 16, 3), nn.BatchNorm1d(16), nn.Conv1d(16, 24, 3)
        self.out = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Any:
        x = functional.gelu(self.norm(self.a(x.flatten(1, 2))))
        return self.out(self.b(x).mean(-1))


class Deciding(nn.Module):
    """Control flow on values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(16, 16), Head(16)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        return self.head(self.b(x) if x.sum() > 0 else x)


class LinearOnly(nn.Module):
    """No width can change, because its only layer makes the output."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Any:
        return self.out(x.mean((2, 3)))
