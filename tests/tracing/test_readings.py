"""Code that may be read in several ways is read in the one that frees most channels."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nsopt.models.trace import trace
from nsopt.tracing.search.search import ADAPTATIONS
from tests.networks import layers
from tests.tracing.checks import check_network_of


class Distilling(nn.Module):
    """IMDN: three layers are cut alike, by sizes in two attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.rest = 4, 12
        self.stem, self.a = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.b, self.c, self.last = (nn.Conv2d(12, n, 1) for n in (16, 16, 4))
        self.join, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        one, rest = torch.split(self.a(x).relu(), (self.kept, self.rest), dim=1)
        two, rest = torch.split(self.b(rest).relu(), (self.kept, self.rest), dim=1)
        three, rest = torch.split(self.c(rest).relu(), (self.kept, self.rest), dim=1)
        parts = torch.cat([one, two, three, self.last(rest)], dim=1)
        return self.head(self.join(parts) + x)


@layers(stem=nn.Linear(6, 16), keys=nn.Linear(16, 16), head=nn.Linear(16, 4))
def Remembers(self: Any, x: Tensor) -> Any:
    """Transformer-XL: four states before the inputs, whose results are cut off."""
    x = self.stem(x).transpose(0, 1)
    states = x.new_zeros(4, x.shape[1], x.shape[2])
    y: Tensor = self.head(x + self.keys(torch.cat([states, x]))[-len(x) :].relu())
    return y.transpose(0, 1)


class PositionsInGroups(nn.Module):
    """wav2vec 2.0: groups of a convolution, and heads with more channels than these."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 3, 16
        self.stem, self.positions = nn.Linear(6, 48), nn.Conv1d(48, 48, 3, padding=1, groups=6)
        self.q, self.k, self.v, self.o = (nn.Linear(48, 48) for _ in range(4))
        self.head = nn.Linear(48, 4)

    def _divide(self, y: Tensor) -> Tensor:
        batch, steps, _ = y.shape
        y = y.transpose(0, 1).reshape(steps, batch * self.heads, self.size)
        return y.transpose(0, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = x + self.positions(x.transpose(1, 2)).transpose(1, 2)
        batch, steps, channels = x.shape
        q, k, v = (self._divide(layer(x)) for layer in (self.q, self.k, self.v))
        y = (q @ k.transpose(1, 2)).softmax(2) @ v
        y = y.transpose(0, 1).reshape(steps, batch, channels).transpose(0, 1)
        return self.head(x + self.o(y))


@layers(a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 32, 3, padding=1), norm=nn.GroupNorm(8, 48))
@layers(head=nn.Conv2d(48, 3, 1))
def NormAcross(self: Any, x: Tensor) -> Any:
    """3-D U-Nets: a group of the norm has channels of both layers."""
    x = self.a(x)
    return self.head(self.norm(torch.cat([x, self.b(x)], 1)))


@layers(stem=nn.Conv2d(2, 12, 1), rnn=nn.LSTM(60, 10, batch_first=True), back=nn.Linear(10, 60))
@layers(head=nn.Conv2d(12, 2, 1))
def ReshapedLike(self: Any, x: Tensor) -> Any:
    """DCCRN: a layer has as many channels as another one, in whose shape it is brought."""
    y = self.stem(x).relu()
    batch, channels, steps, bands = y.shape
    flat = y.transpose(1, 2).reshape(batch, steps, channels * bands)
    z = self.back(self.rnn(flat)[0]).reshape(batch, steps, channels, bands)
    return self.head(z.transpose(1, 2))


@layers(stem=nn.Linear(6, 16), expert=nn.Linear(16, 16), head=nn.Linear(16, 4))
def WritesIntoZeros(self: Any, x: Tensor) -> Any:
    """Switch Transformer: an expert writes into zeros that have the shape of its input."""
    x = self.stem(x)
    batch, steps, channels = x.shape
    x = x.view(-1, channels)
    out, rows = x.new_zeros(x.shape), torch.arange(0, len(x), 2)
    out[rows, :] = self.expert(x[rows, :]).relu()
    return self.head(out.view(batch, steps, channels))


@layers(stem=nn.Linear(6, 16), mixed=nn.Linear(16, 33), head=nn.Linear(16, 4))
def Gates(self: Any, x: Tensor) -> Any:
    """FocalNet: a layer makes queries and contexts, each as wide as its input, and a gate."""
    x = self.stem(x)
    queries, contexts, gate = self.mixed(x).split((x.shape[-1], x.shape[-1], 1), dim=-1)
    return self.head(queries * contexts.relu() * gate)


@layers(first=nn.Linear(6, 16), one=nn.Linear(16, 32), two=nn.Linear(32, 8), stem=nn.Linear(6, 32))
@layers(text=nn.Linear(32, 8))
@layers(layer=nn.TransformerEncoderLayer(32, 4, 12, dropout=0.0, batch_first=True))
def TwoTowers(self: Any, x: Tensor) -> Any:
    """CLIP: another tower happens to have as many channels as the heads of attention together."""
    tower = self.two(self.one(self.first(x).relu()).relu())
    return tower * self.text(self.layer(self.stem(x)))


@layers(stem=nn.Conv2d(3, 16, 1), slide=nn.Conv1d(1, 1, 3, padding=1, bias=False))
@layers(head=nn.Conv2d(16, 3, 1))
def Slides(self: Any, x: Tensor) -> Any:
    """ECA: a kernel slides over the means of channels."""
    x = self.stem(x).relu()
    y = self.slide(x.mean((2, 3)).unsqueeze(1)).sigmoid()
    return self.head(x * y.transpose(1, 2).unsqueeze(3))


IMAGES, STEPS = torch.randn(2, 3, 5, 5), torch.randn(2, 7, 6)
WIDTHS = [
    (Distilling(), IMAGES, [16, 4, 12, 4]),
    (Remembers(), STEPS, [16]),
    (PositionsInGroups(), STEPS, [8]),
    (NormAcross(), IMAGES, [4, 2]),
    (ReshapedLike(), IMAGES[:, :2], [12, 10]),
    (WritesIntoZeros(), STEPS, [16]),
    (Gates(), STEPS, [16, 1]),
    (Slides(), IMAGES, [16]),
    (TwoTowers(), STEPS, [16, 32, 4, 12]),
]


@pytest.mark.parametrize(("model", "x", "widths"), WIDTHS, ids=lambda m: type(m).__name__)
def test_one_reading_may_free_widths(model: nn.Module, x: Tensor, widths: list[int]) -> None:
    check_network_of(trace(model, x), model, x, widths, searches=False)


def test_the_guide_lists_all_kinds_of_proposals_in_order() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text()
    rows = re.findall(r"^\| ([^|`]+) \|", guide.partition("## What nsopt tries")[2], re.MULTILINE)
    assert rows == ["kind", *(kind.name for kind in ADAPTATIONS)]
