"""Small transformers whose code gives all sizes, as people write them by hand."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Split(nn.Module):
    """Splits channels into heads, as a layer of einops: it stores a size in two ways."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        self._sizes = tuple(sizes.items())

    def forward(self, x: Tensor) -> Tensor:
        own = dict(self._sizes)
        return x.unflatten(-1, (own.get("heads", -1), own.get("size", -1))).transpose(1, 2)


class SplitsOfKeywords(nn.Module):
    """Attention that splits its queries by the number of heads, and its keys by their size."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.splits = nn.ModuleList([Split(heads=4), Split(size=8), Split(size=8)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            split(layer(x))
            for split, layer in zip(self.splits, (self.q, self.k, self.v), strict=True)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class OneHeadSize(nn.Module):
    """Attention whose keys and values have heads of the size in one attribute."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.n_heads, self.head_dim = 4, 8
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        sizes = *x.shape[:2], self.n_heads, self.head_dim
        q, k, v = (layer(x).view(sizes).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).contiguous().view(*x.shape[:2], -1))
        return out


class SizeOfAllHeads(nn.Module):
    """BERT's attention: the size of all heads together is as large as its input."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.heads, self.head_size, self.all_head_size = 4, 8, channels
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, self.head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        y = (q @ k.mT / self.head_size**0.5).softmax(-1) @ v
        y = y.permute(0, 2, 1, 3).contiguous()
        out: Tensor = self.out(y.view(*y.shape[:2], self.all_head_size))
        return out


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of channels by a table of angles, (places, size / 2)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos()[None, :, None], angles.sin()[None, :, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Rotary(nn.Module):
    """Attention of Llama: rotary embeddings, and two queries for each key."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.repeats, self.head_dim = 4, 2, 2, 16
        self.q, self.k, self.v = (nn.Linear(channels, n * 16, bias=False) for n in (4, 2, 2))
        self.out = nn.Linear(64, channels, bias=False)
        self.register_buffer("angles", torch.outer(torch.arange(9.0), 0.5 ** torch.arange(8)))

    def forward(self, x: Tensor) -> Tensor:
        batch, places, _ = x.shape
        q = self.q(x).view(batch, places, self.n_heads, self.head_dim)
        k, v = (
            each(x).view(batch, places, self.n_kv_heads, self.head_dim) for each in (self.k, self.v)
        )
        q, k = (rotate(each, self.get_buffer("angles")[:places]) for each in (q, k))
        sizes = batch, places, self.n_kv_heads, self.repeats, self.head_dim
        total = self.n_kv_heads * self.repeats
        k, v = (y[:, :, :, None].expand(sizes).reshape(*sizes[:2], total, -1) for y in (k, v))
        y = functional.scaled_dot_product_attention(*(z.transpose(1, 2) for z in (q, k, v)))
        out: Tensor = self.out(y.transpose(1, 2).contiguous().view(batch, places, -1))
        return out


class Transformer(nn.Module):
    """Patches, to whose view a code of their places is added in place, and two blocks."""

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.randn(1, 9, 32))
        self.blocks = nn.ModuleList([attention() for _ in range(2)])
        self.norm, self.classifier = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x += self.places
        for block in self.blocks:
            x = x + block(x)
        return self.classifier(self.norm(x).mean(1))
