"""Code that may be read in several ways is read in the one that frees most channels."""

import pytest
import torch
from torch import Tensor, nn

from nsopt.models.trace import trace
from tests.tracing.checks import check_network_of


class Distilling(nn.Module):
    """IMDN: three layers are cut alike, by sizes in two attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.rest = 4, 12
        self.stem, self.a = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.b, self.c, self.last = (nn.Conv2d(12, n, 1) for n in (16, 16, 4))
        self.join, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        one, rest = torch.split(self.a(x).relu(), (self.kept, self.rest), dim=1)
        two, rest = torch.split(self.b(rest).relu(), (self.kept, self.rest), dim=1)
        three, rest = torch.split(self.c(rest).relu(), (self.kept, self.rest), dim=1)
        parts = torch.cat([one, two, three, self.last(rest)], dim=1)
        y: Tensor = self.head(self.join(parts) + x)
        return y


class Remembers(nn.Module):
    """Transformer-XL: four states before the inputs, whose results are cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.keys, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
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

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.positions(x.transpose(1, 2)).transpose(1, 2)
        batch, steps, channels = x.shape
        q, k, v = (self._divide(layer(x)) for layer in (self.q, self.k, self.v))
        y = (q @ k.transpose(1, 2)).softmax(2) @ v
        y = y.transpose(0, 1).reshape(steps, batch, channels).transpose(0, 1)
        out: Tensor = self.head(x + self.o(y))
        return out


class NormAcross(nn.Module):
    """3-D U-Nets: a group of the norm has channels of both layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(8, 48), nn.Conv2d(48, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y: Tensor = self.head(self.norm(torch.cat([x, self.b(x)], 1)))
        return y


class ReshapedLike(nn.Module):
    """DCCRN: a layer has as many channels as another one, in whose shape it is brought."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rnn = nn.Conv2d(2, 12, 1), nn.LSTM(60, 10, batch_first=True)
        self.back, self.head = nn.Linear(10, 60), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        batch, channels, steps, bands = y.shape
        flat = y.transpose(1, 2).reshape(batch, steps, channels * bands)
        z = self.back(self.rnn(flat)[0]).reshape(batch, steps, channels, bands)
        out: Tensor = self.head(z.transpose(1, 2))
        return out


class WritesIntoZeros(nn.Module):
    """Switch Transformer: an expert writes into zeros that have the shape of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expert, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, steps, channels = x.shape
        x = x.view(-1, channels)
        out, rows = x.new_zeros(x.shape), torch.arange(0, len(x), 2)
        out[rows, :] = self.expert(x[rows, :]).relu()
        y: Tensor = self.head(out.view(batch, steps, channels))
        return y


class Gates(nn.Module):
    """FocalNet: a layer makes queries and contexts, each as wide as its input, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed, self.head = nn.Linear(6, 16), nn.Linear(16, 33), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        queries, contexts, gate = self.mixed(x).split((x.shape[-1], x.shape[-1], 1), dim=-1)
        y: Tensor = self.head(queries * contexts.relu() * gate)
        return y


class TwoTowers(nn.Module):
    """CLIP: another tower happens to have as many channels as the heads of attention together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 32), nn.Linear(32, 8)
        self.stem, self.text = nn.Linear(6, 32), nn.Linear(32, 8)
        self.layer = nn.TransformerEncoderLayer(32, 4, 12, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tower = self.two(self.one(self.first(x).relu()).relu())
        y: Tensor = tower * self.text(self.layer(self.stem(x)))
        return y


class Slides(nn.Module):
    """ECA: a kernel slides over the means of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.slide = nn.Conv2d(3, 16, 1), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.slide(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        z: Tensor = self.head(x * y.transpose(1, 2).unsqueeze(3))
        return z


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
def test_widths_change_wherever_one_reading_of_the_code_frees_them(
    model: nn.Module, x: Tensor, widths: list[int]
) -> None:
    check_network_of(trace(model, x), model, x, widths, searches=False)
