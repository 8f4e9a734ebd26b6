"""Small transformers whose code gives all sizes, as people write them by hand."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.networks import layers


class Split(nn.Module):
    """Splits channels into heads, as a layer of einops: it stores a size in two ways."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        self._sizes = tuple(sizes.items())

    def forward(self, x: Tensor) -> Tensor:
        own = dict(self._sizes)
        return x.unflatten(-1, (own.get("heads", -1), own.get("size", -1))).transpose(1, 2)


FOUR = {name: nn.Linear(32, 32) for name in ("q", "k", "v", "out")}


@layers(**FOUR, splits=nn.ModuleList([Split(heads=4), Split(size=8), Split(size=8)]))
def SplitsOfKeywords(self: Any, x: Tensor) -> Any:
    """Attention that splits its queries by the number of heads, and its keys by their size."""
    made = (layer(x) for layer in (self.q, self.k, self.v))
    parts = (split(each) for split, each in zip(self.splits, made, strict=True))
    return self.out(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


@layers(n_heads=4, head_dim=8, **FOUR)
def OneHeadSize(self: Any, x: Tensor) -> Any:
    """Attention whose keys and values have heads of the size in one attribute."""
    sizes = *x.shape[:2], self.n_heads, self.head_dim
    q, k, v = (layer(x).view(sizes).transpose(1, 2) for layer in (self.q, self.k, self.v))
    y = functional.scaled_dot_product_attention(q, k, v)
    return self.out(y.transpose(1, 2).contiguous().view(*x.shape[:2], -1))


@layers(heads=4, head_size=8, all_head_size=32, **FOUR)
def SizeOfAllHeads(self: Any, x: Tensor) -> Any:
    """BERT's attention: the size of all heads together is as large as its input."""
    sizes = *x.shape[:2], self.heads, self.head_size
    q, k, v = (layer(x).view(sizes).permute(0, 2, 1, 3) for layer in (self.q, self.k, self.v))
    y = (q @ k.mT / self.head_size**0.5).softmax(-1) @ v
    y = y.permute(0, 2, 1, 3).contiguous()
    return self.out(y.view(*y.shape[:2], self.all_head_size))


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of channels by a table of angles, (places, size / 2)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos()[None, :, None], angles.sin()[None, :, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


@layers(n_heads=4, n_kv_heads=2, repeats=2, head_dim=16, q=nn.Linear(32, 64, bias=False))
@layers(k=nn.Linear(32, 32, bias=False), v=nn.Linear(32, 32, bias=False))
@layers(angles=nn.Buffer(torch.outer(torch.arange(9.0), 0.5 ** torch.arange(8))))
@layers(out=nn.Linear(64, 32, bias=False))
def Rotary(self: Any, x: Tensor) -> Any:
    """Attention of Llama: rotary embeddings, and two queries for each key."""
    batch, places, _ = x.shape
    q = self.q(x).view(batch, places, self.n_heads, self.head_dim)
    k, v = (y(x).view(batch, places, self.n_kv_heads, self.head_dim) for y in (self.k, self.v))
    q, k = (rotate(each, self.angles[:places]) for each in (q, k))
    sizes = batch, places, self.n_kv_heads, self.repeats, self.head_dim
    total = self.n_kv_heads * self.repeats
    k, v = (y[:, :, :, None].expand(sizes).reshape(*sizes[:2], total, -1) for y in (k, v))
    y = functional.scaled_dot_product_attention(*(z.transpose(1, 2) for z in (q, k, v)))
    return self.out(y.transpose(1, 2).contiguous().view(batch, places, -1))


@layers(blocks=None, patches=nn.Conv2d(3, 32, 4, 4), places=nn.Parameter(torch.randn(1, 9, 32)))
@layers(norm=nn.LayerNorm(32), classifier=nn.Linear(32, 10))
def Transformer(self: Any, x: Tensor) -> Any:
    """Patches, to whose view a code of their places is added in place, and two blocks."""
    x = self.patches(x).flatten(2).transpose(1, 2)
    x += self.places
    for block in self.blocks:
        x = x + block(x)
    return self.classifier(self.norm(x).mean(1))
