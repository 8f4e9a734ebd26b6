"""Heads of attention, written as in Hugging Face's transformers, can be removed one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.models.trace import trace
from tests.networks import layers
from tests.tracing.checks import check_building, check_network_of


class Attention(nn.Module):
    """Four heads of queries that infer their number; `keys` heads of keys and values."""

    def __init__(self, keys: int = 4) -> None:
        super().__init__()
        self.head, self.heads, self.repeats = 8, keys, 4 // keys
        self.q, self.o = nn.Linear(24, 32), nn.Linear(32, 24)
        self.k, self.v = nn.Linear(24, 8 * keys), nn.Linear(24, 8 * keys)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attend(self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x)))
        return x + self.o(y.transpose(1, 2).reshape(*x.shape[:-1], -1))


class SizesOfKeys(Attention):
    """Whisper: its queries infer the number of heads, its keys and values do not."""

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:-1], -1, self.head).transpose(1, 2)
        k, v = (
            each(x).view(x.shape[0], -1, self.heads, self.head).transpose(1, 2)
            for each in (self.k, self.v)
        )
        return x + self.o(self.attend(q, k, v).transpose(1, 2).reshape(*x.shape[:-1], -1))


class Repeats(Attention):
    """Llama: two heads of queries read one head of keys and values."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def repeat(x: Tensor) -> Tensor:
            batch, heads, steps, size = x.shape
            x = x[:, :, None].expand(batch, heads, self.repeats, steps, size)
            return x.reshape(batch, heads * self.repeats, steps, size)

        return functional.scaled_dot_product_attention(q, repeat(k), repeat(v))


class Packed(nn.Module):
    """A layer makes queries and fewer heads of keys and values; an attribute says where to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.keys, self.size = 4, 2, 8
        self.packed, self.o = nn.Linear(24, 64), nn.Linear(32, 24)
        self.parts = 32, 16, 16

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        q, k, v = self.packed(x).split(self.parts, -1)
        q = q.view(batch, steps, self.heads, self.size).transpose(1, 2)
        k, v = (y.view(batch, steps, self.keys, self.size).transpose(1, 2) for y in (k, v))
        y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.o(y.transpose(1, 2).reshape(batch, steps, -1))


class Turned(nn.Module):
    """Queries, keys and values from one layer, unbound; sines of a fixed number of channels."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, 8
        self.packed, self.o = nn.Linear(24, 24 * heads), nn.Linear(8 * heads, 24)

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1]), 0.1 ** torch.arange(4.0)).repeat(1, 2)
        one, other = x.chunk(2, -1)
        sine = angles.sin()[:, None]
        return x * angles.cos()[:, None] + torch.cat([-other, one], -1) * sine

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.packed(x).unflatten(-1, (3, self.heads, self.size)).unbind(2)
        q, k, v = (y.transpose(1, 2) for y in (self.turn(q), self.turn(k), v))
        y = functional.scaled_dot_product_attention(q, k, v)
        return x + self.o(y.transpose(1, 2).flatten(2))


@layers(blocks=None, words=nn.Embedding(20, 24), codes=nn.Parameter(torch.randn(9, 24)))
@layers(head=nn.Linear(24, 4))
def Transformer(self: Any, words: Tensor) -> Any:
    """Two blocks; reads codes of positions by their indices, and one token."""
    places = torch.arange(words.shape[1]).flip(0)
    x = self.blocks(self.words(words) + self.codes[places])
    return self.head(x[torch.arange(len(x)), words.argmax(1)])


@pytest.mark.parametrize(
    ("kind", "keys", "heads"),
    [(Attention, 4, 4), (SizesOfKeys, 4, 4), (Repeats, 2, 2)],
)
def test_heads_go_from_each_block_alone(kind: type[Attention], keys: int, heads: int) -> None:
    model, words = Transformer(nn.Sequential(kind(keys), kind(keys))), torch.randint(20, (2, 5))
    arch = trace(model, words)
    assert all(group.exact for group in arch.network.family.groups)
    check_network_of(arch, model, words, [24, heads, heads], searches=False)


class Encoder(nn.Module):
    """PyTorch's own encoder; `padded`: zeros are no words."""

    def __init__(self, size: int, padded: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(size, 4, 20, batch_first=True, activation="gelu")
        self.words, self.padded = nn.Embedding(20, size), padded
        self.blocks = nn.TransformerEncoder(layer, 1, enable_nested_tensor=padded)
        self.head = nn.Linear(size, 4)

    def forward(self, words: Tensor) -> Any:
        mask = words == 0 if self.padded else None
        return self.head(self.blocks(self.words(words), src_key_padding_mask=mask)[:, 0])


@pytest.mark.parametrize(("size", "units"), [(24, 4), (48, 12)])
def test_attention_of_pytorch_shrinks_whatever_its_sizes(size: int, units: int) -> None:
    words = torch.randint(20, (2, 5))
    arch = trace(Encoder(size), words)
    assert arch.base_widths == (units, 20)
    check_building(arch, words)


@layers(stem=nn.Linear(6, 24), head=nn.Linear(24, 3))
@layers(attention=nn.MultiheadAttention(24, 4, batch_first=True))
def Pooled(self: Any, x: Tensor) -> Any:
    """Attention without a sum around it."""
    y = self.stem(x)
    return self.head(self.attention(y, y, y, need_weights=False)[0])


@layers(positions=None, a=nn.Linear(6, 16), attention=nn.MultiheadAttention(16, 4))
@layers(head=nn.Linear(16, 5))
def Positioned(self: Any, x: Tensor) -> Any:
    """A table of positions for at least as many steps as a head has channels."""
    x = self.a(x.transpose(0, 1)) + self.positions
    x = x + self.attention(x, x, x)[0]  # with its weights, by other operations than without
    return self.head(x.mean(0))


@layers(a=nn.Linear(5, 16), head=nn.Linear(16, 3), q=nn.Linear(16, 16), k=nn.Linear(16, 16))
@layers(v=nn.Linear(16, 16), o=nn.Linear(16, 16), table=nn.Parameter(torch.randn(10, 16)), heads=4)
def OfNodes(self: Any, x: Tensor) -> Any:
    """Attention over time: nodes, of which a table knows more, are examples there."""
    y = (self.a(x) + self.table).transpose(0, 1)
    steps, *rows, channels = y.shape
    z, sizes = y.reshape(steps, -1, channels), (-1, channels // self.heads)
    q, k, v = (f(z).view(steps, *sizes).transpose(0, 1) for f in (self.q, self.k, self.v))
    z = ((q @ k.transpose(1, 2)).softmax(-1) @ v).transpose(0, 1).reshape(z.shape)
    return self.head((y + self.o(z).view(steps, *rows, channels)).mean((0, 2)))


@layers(a=nn.Linear(5, 12), head=nn.Linear(16, 3), size=2, q=nn.Linear(12, 16), k=nn.Linear(12, 16))
@layers(v=nn.Linear(12, 16))
def CutHeads(self: Any, x: Tensor) -> Any:
    """Heads of two channels that are cut one by one, and become examples (GMAN)."""
    y = self.a(x)
    parts = (f(y).split(self.size, -1) for f in (self.q, self.k, self.v))
    q, k, v = (torch.cat(few, 0) for few in parts)
    z = ((q @ k.transpose(1, 2)).softmax(-1) @ v).split(len(x), 0)
    return self.head(torch.cat(z, -1).mean(1))


PADDED = torch.cat([torch.randint(1, 20, (8, 5)), torch.zeros(8, 2, dtype=torch.int64)], 1)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_mask_of_padding_does_not_keep_heads() -> None:
    model = Encoder(32, padded=True)
    check_network_of(trace(model, PADDED), model, PADDED, [4, 20], searches=False)


def test_an_odd_number_of_heads_runs_without_nested_tensors() -> None:
    model = Encoder(32, padded=True).eval()
    smaller = trace(model, PADDED).prune(model, [range(3), range(20)])
    assert smaller.get_submodule("blocks.layers.0.self_attn").head_dim == 8
    with torch.no_grad():
        found = smaller(PADDED)
    torch.testing.assert_close(found, smaller(PADDED))


class Few(nn.Module):
    """Few small heads, whose size one attribute stores for queries, keys and values."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.q, self.k, self.v = (nn.Linear(7, heads * size) for _ in range(3))
        self.o = nn.Linear(heads * size, 7)

    def forward(self, x: Tensor) -> Tensor:
        sizes = *x.shape[:2], self.heads, self.size
        parts = (layer(x).view(sizes).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(*parts)
        return self.o(y.transpose(1, 2).flatten(2).cos())


@pytest.mark.parametrize(("size", "heads"), [(2, 1), (3, 1), (4, 3)])
def test_a_size_of_queries_and_values_is_one_width_in_small_heads(size: int, heads: int) -> None:
    model, x = Few(size, heads), torch.randn(2, 5, 7)
    arch = trace(model, x)
    assert arch.base_widths == (size,)
    check_building(arch, x)
    assert arch.build([1])(x).shape == x.shape


class Widening(nn.Module):
    """Hiera: attention of wider outputs, whose heads may have the size of its inputs."""

    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__()
        self.outputs, self.heads, self.size = outputs, heads, outputs // heads
        self.packed, self.o = nn.Linear(inputs, 3 * outputs), nn.Linear(outputs, outputs)
        self.wide = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        packed = self.packed(x).reshape(batch, steps, 3, self.heads, self.size)
        y = functional.scaled_dot_product_attention(*packed.permute(2, 0, 3, 1, 4))
        return self.wide(x) + self.o(y.transpose(1, 2).reshape(batch, -1, self.outputs))


@layers(heads=4, scale=nn.Parameter(torch.ones(4, 1, 1)), packed=nn.Linear(32, 96, bias=False))
@layers(q_bias=nn.Parameter(torch.randn(32)), v_bias=nn.Parameter(torch.randn(32)))
@layers(k_bias=nn.Buffer(torch.zeros(32), persistent=False), o=nn.Linear(32, 32))
def WithoutBiasOfKeys(self: Any, x: Tensor) -> Any:
    """Swin V2: zeros in a buffer are the biases of keys; the size of its heads is inferred."""
    bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
    packed = functional.linear(x, self.packed.weight, bias)
    q, k, v = packed.reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    y = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
    return x + self.o(y.transpose(1, 2).reshape(x.shape))


@layers(heads=4, pairs=nn.Linear(24, 48), v=nn.Linear(24, 24), o=nn.Linear(24, 24))
def PackedPairs(self: Any, x: Tensor) -> Any:
    """ConViT: a layer makes queries and keys, another the values; inputs tell the size of heads."""
    batch, steps, channels = x.shape
    size = self.heads, channels // self.heads
    q, k = self.pairs(x).reshape(batch, steps, 2, *size).permute(2, 0, 3, 1, 4)
    v = self.v(x).reshape(batch, steps, *size).transpose(1, 2)
    y = functional.scaled_dot_product_attention(q, k, v)
    return x + self.o(y.transpose(1, 2).reshape(batch, steps, channels))


@layers(project=nn.Linear(48, 24))
def Readout(self: Any, x: Tensor) -> Any:
    """DPT: each token reads the first one beside itself, and keeps its shape."""
    y, shape = x[:, 1:], x[:, 1:].shape
    y = self.project(torch.cat([y, x[:, :1].expand_as(y)], -1)).relu()
    return y.reshape(shape)


def between(width: int, *blocks: nn.Module, last: int | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), *blocks, nn.Linear(last or width, 4))


POSITIONED = [Positioned(nn.Parameter(torch.randn(steps, 1, 16))) for steps in (4, 12)]
STEPS = 2, 5, 6
WHOLE = [
    (between(24, Packed()), STEPS, [24, 8]),  # a layer is cut into parts of different sizes
    *((between(24, Turned(heads)), STEPS, [24, heads]) for heads in (2, 3)),
    *((model, (2, len(model.positions), 6), [4]) for model in POSITIONED),  # examples are places
    (OfNodes(), (2, 3, 10, 5), [4]),
    (CutHeads(), (2, 3, 5), [12, 2]),
    (Pooled(), (2, 7, 6), [4]),
    (between(16, Widening(16, 16, 1), Widening(16, 32, 2), last=32), STEPS, [16, 16, 16, 16, 32]),
    (between(32, WithoutBiasOfKeys()), STEPS, [8]),
    (between(24, PackedPairs()), STEPS, [6]),
    (between(24, Readout()), STEPS, [24]),
]


@pytest.mark.parametrize(("model", "shape", "widths"), WHOLE)
def test_heads_go_however_code_gives_their_sizes(
    model: nn.Module, shape: tuple[int, ...], widths: list[int]
) -> None:
    x = torch.randn(shape)
    check_network_of(trace(model, x), model, x, widths, searches=False)
