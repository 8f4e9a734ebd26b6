"""Small networks with parts of larger ones: recurrent layers, attention, computed weights."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.networks import layers
from tests.tracing.awkward import Head, block


class OwnHeads(nn.Module):
    """Attention that stores its sizes in attributes, as in timm."""

    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.attn_dim = heads, size, heads * size
        self.qkv = nn.Linear(channels, 3 * heads * size)
        self.proj = nn.Linear(heads * size, channels)

    def forward(self, x: Tensor) -> Any:
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, self.head_dim)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(*x.shape[:1], x.shape[2], self.attn_dim))


@layers(a=block(3, 32, 3, 4), out=nn.Linear(32, 10))
@layers(blocks=nn.ModuleList([OwnHeads(32, 3, 12) for _ in range(2)]))
def TransformerOfNumbers(self: Any, x: Tensor) -> Any:
    x = self.a(x).flatten(2).transpose(1, 2)
    for each in self.blocks:
        x = x + each(x)
    return self.out(x.mean(1))


@layers(a=block(3, 16, 3, 4), q=nn.Conv2d(16, 8, 1), k=nn.Conv2d(16, 8, 1), v=nn.Conv2d(16, 24, 1))
@layers(head=Head(24))
def NarrowKeys(self: Any, x: Tensor) -> Any:
    """Attention whose keys are narrower than its values, for which PyTorch has no fused kernel."""
    x = self.a(x)
    parts = (each(x).flatten(2).transpose(1, 2).unsqueeze(1) for each in (self.q, self.k, self.v))
    x = functional.scaled_dot_product_attention(*parts)
    return self.head(x.squeeze(1).transpose(1, 2).unsqueeze(3))


@layers(heads=2, key_dim=4, head_dim=8, c=16)
@layers(a=block(3, 16, 3, 4), qkv=block(16, 32, 1), proj=block(16, 16, 1), head=Head(16))
def UnevenHeads(self: Any, x: Tensor) -> Any:
    """Attention whose queries, keys and values are unequal parts of one convolution, as in YOLO."""
    x = self.a(x)
    parts = self.qkv(x).view(len(x), self.heads, 2 * self.key_dim + self.head_dim, -1)
    q, k, v = parts.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
    y = v @ (q.transpose(-2, -1) @ k).softmax(-1).transpose(-2, -1)
    return self.head(x + self.proj(y.reshape(x.shape)))


@layers(size=12, a=block(3, 16, 3, 4), qkv=nn.Conv2d(16, 25, 1), proj=block(12, 16, 1))
@layers(head=Head(16))
def OneQuery(self: Any, x: Tensor) -> Any:
    """Attention whose single query stands before keys and values, as in MobileViTv2."""
    x = self.a(x)
    q, k, v = self.qkv(x).split([1, self.size, self.size], dim=1)
    seen = (k * q.flatten(2).softmax(-1).view_as(q)).sum((2, 3), keepdim=True)
    return self.head(x + self.proj(v.relu() * seen))


class PooledHeads(nn.Module):
    """Heads split the channels; keys come from fewer places (PVT) and are normalised (XCiT)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, channels // heads
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.pool, self.proj = nn.Conv2d(channels, channels, 2, 2), nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Any:
        n, channels, *places = x.shape
        y = self.pool(x).reshape(n, channels, -1).transpose(1, 2)
        x = x.flatten(2).transpose(1, 2)
        q = self.q(x).reshape(n, x.shape[1], self.heads, -1).transpose(1, 2)
        kv = self.kv(y).reshape(n, -1, 2, self.heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        near = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
        x = (near * self.scale).softmax(-1) @ v
        x = self.proj(x.transpose(1, 2).reshape(n, -1, channels))
        return x.transpose(1, 2).reshape(n, channels, *places)


@layers(a=block(3, 16, 3, 4), b=PooledHeads(16, 1), c=block(16, 24, 1), d=PooledHeads(24, 2))
@layers(head=Head(24))
def PoolingTransformer(self: Any, x: Tensor) -> Any:
    """Its first attention has one head, as wide as the stream."""
    x = self.a(x)
    x = self.c(x + self.b(x))
    return self.head(x + self.d(x))


@layers(a=block(3, 16), b=block(16, 24), c=block(24, 12), head=Head(12))
def UnitVectors(self: Any, x: Tensor) -> Any:
    """Divides by lengths over channels, and over places."""
    x = self.b(functional.normalize(self.a(x), dim=1))
    return self.head(self.c(functional.normalize(x.flatten(2), dim=2).view(x.shape)))


@layers(a=block(3, 16), codes=nn.Conv2d(2, 16, 1), b=block(16, 24, 1), head=Head(24))
def CodesOfPlaces(self: Any, x: Tensor) -> Any:
    """A convolution that runs once for any number of examples (XCiT)."""
    x = self.a(x)
    axes = [torch.linspace(0, 1, size, dtype=x.dtype) for size in x.shape[2:]]
    codes = self.codes(torch.stack(torch.meshgrid(axes, indexing="ij")).unsqueeze(0))
    return self.head(self.b(x + codes))


@layers(a=block(3, 16), ways=nn.Linear(16, 8), head=Head(24))
@layers(first=nn.Parameter(torch.randn(8, 12, 16) / 4))
@layers(second=nn.Parameter(torch.randn(8, 24, 12) / 4))
def MixtureOfKernels(self: Any, x: Tensor) -> Any:
    """Every example has its own 1x1 kernels, once by einsum and once by a grouped convolution."""
    x = self.a(x)
    ways = self.ways(x.mean((2, 3))).softmax(1)
    x = torch.einsum("nk,koi,nihw->nohw", ways, self.first, x).relu()
    kernels = (ways @ self.second.flatten(1)).view(-1, x.shape[1], 1, 1)
    maps = x.reshape(1, -1, *x.shape[2:])
    x = functional.conv2d(maps, kernels, groups=len(x)).view(len(x), -1, *x.shape[2:])
    return self.head(x)


@layers(a=block(3, 16), b=block(16, 24), head=Head(24))
def SummedByOnes(self: Any, x: Tensor) -> Any:
    """Sums channels by products with ones, which take any number of them."""
    x = self.a(x)
    ones = torch.ones(1, x.shape[1], 1, 1, dtype=x.dtype)
    row = torch.ones(1, x.shape[1], dtype=x.dtype)
    summed = row @ x.flatten(2) + functional.conv2d(x, ones).flatten(2)
    return self.head(self.b(x * summed.view(len(x), 1, *x.shape[2:]).sigmoid()))


@layers(a=block(3, 16), b=block(16, 24), head=Head(24))
@layers(filters=nn.Parameter(torch.randn(16, 32, 17, dtype=torch.complex64) / 4))
def Complex(self: Any, x: Tensor) -> Any:
    """Filters of frequencies, with complex weights."""
    seen = torch.fft.rfft2(self.a(x)) * self.filters
    return self.head(self.b(torch.fft.irfft2(seen, x.shape[2:])))


@layers(stem=nn.Conv2d(3, 16, 4, 4), values=nn.Linear(16, 24), head=nn.Linear(24, 7))
def WrittenRows(self: Any, x: Tensor) -> Any:
    """Attention as in Informer: writes what some queries read at their places, by indices."""
    x = self.values(self.stem(x).flatten(2).transpose(1, 2))
    values = x.unflatten(-1, (4, -1)).transpose(1, 2)  # (B, 4, 64, 6)
    examples, heads = torch.arange(len(x))[:, None, None], torch.arange(4)[:, None]
    context, few = values.mean(2, keepdim=True).expand_as(values).clone(), torch.arange(5)
    context[examples, heads, few.expand(len(x), 4, 5)] = values[:, :, :5] * 2
    context[:, :, few + 5] = values[:, :, :1]
    context[examples[:, 0], :, few] += values[:, :, 5:10].transpose(1, 2)
    return self.head(context.transpose(1, 2).flatten(2).mean(1))


class PartialConvolution(nn.Module):
    """FasterNet: stores the size of the part that only passes through, which no tensor here has."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolved, self.untouched = channels // 4, channels - channels // 4
        self.conv = nn.Conv2d(self.convolved, self.convolved, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        some, others = x.split([self.convolved, self.untouched], dim=1)
        return torch.cat([self.conv(some), others], 1)


def partly_convolved(hidden: int) -> nn.Module:
    last = nn.ReLU(), nn.Conv2d(hidden, 16, 1)
    return nn.Sequential(PartialConvolution(16), nn.Conv2d(16, hidden, 1), *last)


@layers(stem=nn.Conv2d(3, 16, 4, 4), a=partly_convolved(24), b=partly_convolved(12), head=Head(16))
def PartlyConvolved(self: Any, x: Tensor) -> Any:
    """Two blocks of FasterNet around partial convolutions."""
    x = self.stem(x)
    return self.head(x + self.b(x + self.a(x)))


@layers(groups=None, stem=nn.Conv2d(3, 32, 3), scale=nn.Parameter(torch.ones(32)))
@layers(kernel=nn.Parameter(torch.randn(24, 4, 3, 3)), head=nn.Linear(24, 7))
def WrittenGroups(self: Any, x: Tensor) -> Any:
    """A norm and a convolution whose code says how many groups of channels there are."""
    x = functional.group_norm(self.stem(x), 8, self.scale).relu()
    return self.head(functional.conv2d(x, self.kernel, groups=8).relu().mean((2, 3)))


@layers(a=nn.Conv2d(1, 16, 1), b=block(16, 24), head=Head(24))
def OneValue(self: Any, x: Tensor) -> Any:
    """Standardises weights of one value each, which a norm refuses."""
    weight = self.a.weight.flatten(1).unsqueeze(0)
    weight = functional.batch_norm(weight, None, None, training=True).view(16, 1, 1, 1)
    return self.head(self.b(functional.conv2d(x[:, :1], weight)))


@layers(a=block(3, 16), out=nn.Linear(12, 10))
@layers(first=nn.GRU(16, 10, num_layers=2, bidirectional=True))
@layers(second=nn.LSTM(20, 16, proj_size=6, bias=False), third=nn.RNN(6, 14))
@layers(cell=nn.GRUCell(14, 12))
def RecurrentBothWays(self: Any, x: Tensor) -> Any:
    """Layers in both directions, projected ones, plain ones, and a cell."""
    steps = self.a(x).mean(3).permute(2, 0, 1)[::8]
    with warnings.catch_warnings(action="ignore"):  # that a projection has no fused kernel
        steps, _ = self.third(self.second(self.first(steps)[0])[0])
    state = steps.new_zeros(steps.shape[1], self.cell.hidden_size)
    for step in steps:
        state = self.cell(step, state)
    return self.out(state)


@layers(a=block(3, 16), second=nn.GRU(20, 12), out=nn.Linear(22, 10))
@layers(first=nn.LSTM(16, 10, num_layers=2, batch_first=True, bidirectional=True))
def Packed(self: Any, x: Tensor) -> Any:
    """Recurrent layers that skip the padding of sequences, sorted by PyTorch or not."""
    steps = self.a(x).mean(3).transpose(1, 2)[:, ::4]
    lengths = torch.arange(3, 3 + len(steps))
    packed = pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
    packed, (states, _) = self.first(packed)
    padded, lengths = pad_packed_sequence(packed, batch_first=True, total_length=9)
    padded, lengths = padded.flip(0).transpose(0, 1), lengths.flip(0)
    _, last = self.second(pack_padded_sequence(padded, lengths))
    return self.out(torch.cat([last[-1], states[-1].flip(0)], 1))


@layers(a=block(3, 16), b=nn.Conv1d(16, 12, 3), points=nn.Parameter(torch.randn(10, 12)))
def Prototypes(self: Any, x: Tensor) -> Any:
    """Distances from learned points, of the three largest features over time."""
    steps = self.b(self.a(x).mean(3)).unfold(2, 6, 3).amax(3)
    steps = steps.topk(3, dim=2).values.cumsum(2).unsqueeze_(1).squeeze_(1)
    return -torch.cdist(steps.median(2).values, self.points)


@layers(a=block(3, 16), b=nn.Conv2d(16, 16, 3, padding=1), c=block(16, 32), out=nn.Conv2d(8, 10, 1))
def Unpooled(self: Any, x: Tensor) -> Any:
    """A segmentation network as SegNet, and an overlap of patches."""
    pooled, places = functional.max_pool2d(self.a(x), 2, return_indices=True)
    x = functional.max_unpool2d(self.b(pooled).relu(), places, 2)
    patches = self.c(x)[..., ::2, ::2].flatten(2)
    side = math.isqrt(patches.shape[2]) + 1
    return self.out(functional.fold(patches, (side, side), 2))


@layers(hidden=8, gates=nn.Conv1d(3 + 8, 4 * 8, 3, padding=1), out=nn.Conv1d(8, 10, 1))
def ConvolvedState(self: Any, x: Tensor) -> Any:
    """A recurrent convolution, which reads its last state beside each step: the first is zero."""
    state = memory = x.new_zeros(len(x), self.hidden, x.shape[2])
    for step in x[..., ::8].unbind(3):
        gates = self.gates(torch.cat([step, state], 1)).split(self.hidden, 1)
        opened, kept, shown = (gate.sigmoid() for gate in gates[:3])
        memory = kept * memory + opened * gates[3].tanh()
        state = shown * memory.tanh()
    return self.out(state)


@layers(a=block(3, 16), b=nn.Linear(16 + 6, 12), out=nn.Linear(12, 10))
def WrittenZeros(self: Any, x: Tensor) -> Any:
    """Zeros whose number stands in the code, beside channels, copied to a device."""
    both = torch.cat([self.a(x).mean((2, 3)), x.new_zeros(len(x), 6)], 1)
    copy = torch.empty_like(both, device=x.device).copy_(both)
    return self.out(self.b(copy).relu())


@layers(a=block(3, 16), b=nn.Linear(8, 12), out=nn.Linear(12, 10), mean=nn.Linear(16, 8))
@layers(spread=nn.Linear(16, 8))
def Variational(self: Any, x: Tensor) -> Any:
    """Draws from a distribution, whose arguments PyTorch checks; compares and prints numbers."""
    y = self.a(x).mean((2, 3))
    latent = torch.distributions.Normal(self.mean(y), self.spread(y).exp())
    drawn = latent.rsample() if self.training else latent.mean
    self.text = f"{drawn.mean():.2f}, {len(x):d}"
    return self.out(self.b(drawn).relu()), functional.mse_loss(latent.mean, drawn.detach())


@layers(a=block(3, 16), words=nn.EmbeddingBag(50, 16, mode="sum"), out=nn.Linear(16, 10))
def Bags(self: Any, x: Tensor) -> Any:
    """Adds the embeddings of several words to the features of an image."""
    words = x.mean((1, 3)).mul(100).long().remainder(50)
    return self.out(self.a(x).mean((2, 3)) + self.words(words))


class Text(nn.Module):
    """A language model whose output layer shares the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.recurrent = nn.Embedding(50, 16), nn.GRU(16, 24, batch_first=True)
        self.back, self.out = nn.Linear(24, 16), nn.Linear(16, 50)
        self.out.weight = self.words.weight

    def forward(self, x: Tensor) -> Any:
        words = x.mean((1, 3)).mul(100).long().remainder(50)
        return self.out(self.back(self.recurrent(self.words(words))[0]).relu())


class Normed(nn.Module):
    """Weights that are normalised: by hooks, as in older PyTorch, or by parametrizations."""

    norm: Callable[[nn.Module], nn.Module] = staticmethod(nn.utils.spectral_norm)

    def __init__(self) -> None:
        super().__init__()
        first, last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3, groups=4)
        with warnings.catch_warnings(action="ignore"):
            self.a, self.b = self.norm(first), self.norm(last)
            self.c, self.out = map(self.norm, (nn.ConvTranspose2d(24, 12, 3), nn.Linear(12, 10)))

    def forward(self, x: Tensor) -> Any:
        x = self.c(self.b(self.a(x).relu()).relu()).relu()
        return self.out(x.mean((2, 3)))


class WeightNormed(Normed):
    norm = staticmethod(parametrizations.weight_norm)


class SpectrallyNormed(Normed):
    norm = staticmethod(parametrizations.spectral_norm)


class WeightNormedByHooks(Normed):
    norm = staticmethod(nn.utils.weight_norm)
