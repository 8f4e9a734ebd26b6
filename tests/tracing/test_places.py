"""Channels that become places or steps, filled tensors that change, and tensors held twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt.deployment.kept import KeptNetwork
from nsopt.models.trace import trace
from tests.tracing.checks import check_pruning


class OfPlaces(nn.Module):
    """Linear units are the places of a layer, which mixes neighbours."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 16), layer, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        made = self.layer(self.first(x).unsqueeze(1))
        return self.last(made.mean(2))


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv1d(3, 16, 1), nn.LSTM(5, 4, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        _, (end, _) = self.layer(self.first(x))
        return self.last(end[-1])


@pytest.mark.parametrize(
    ("model", "example", "name"),
    [
        (OfPlaces(nn.Conv1d(1, 4, 3)), torch.randn(2, 6), "first"),
        (OfPlaces(nn.ConvTranspose1d(1, 4, 3)), torch.randn(2, 6), "first"),
        (Steps(), torch.randn(2, 3, 5), "first"),
    ],
    ids=["convolution", "transposed", "recurrent"],
)
def test_channels_that_are_places_or_steps_stay(
    model: nn.Module, example: Tensor, name: str
) -> None:
    assert name not in trace(model, example).layer_names


class Weighted(nn.Module):
    """Units have weights that depend on their index, made of ones."""

    def __init__(self, weigh: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.first, self.weigh = nn.Linear(6, 8), weigh
        self.last = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Any:
        made = self.first(x)
        return self.last(made * self.weigh(made.shape[1]))


@pytest.mark.parametrize(
    "weigh",
    [
        lambda count: torch.ones(count).cumsum(0),
        lambda count: functional.pad(torch.ones(count - 1), (1, 0)),
    ],
    ids=["sums", "padding"],
)
def test_units_stay_if_their_index_decides_their_weight(weigh: Callable[[int], Tensor]) -> None:
    assert "first" not in trace(Weighted(weigh), torch.randn(2, 6)).layer_names


class Padded(nn.Module):
    """A shortcut is written into the first channels of a filled tensor (ResNet, option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 16)
        self.last = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        made = self.first(x).relu()
        more = self.second(made)
        shortcut = more.new_zeros(more.shape)
        shortcut[:, :8] = made
        return self.last((more + shortcut).relu())


def test_what_is_written_into_a_part_of_a_filled_tensor_keeps_its_place() -> None:
    torch.manual_seed(0)
    model, x = Padded(), torch.randn(5, 6)
    arch = trace(model, x)
    assert arch.base_widths == (12,)
    check_pruning(arch, model, x)


class HeldTwice(nn.Module):
    """A list holds a weight, too, as code of tied weights does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(10, 16), nn.Linear(16, 16)
        self.tied = [self.embedding.weight]
        self.register_buffer("positions", torch.randn(4, 16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        made = self.mix(self.embedding(x) + self.positions)
        return made @ self.embedding.weight.t()


def test_tensors_that_a_list_holds_too_follow_the_smaller_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = HeldTwice().eval(), torch.randint(10, (2, 4))
    arch = nsopt.trace(model, x)
    kept = [torch.arange(1, width, 2) for width in arch.base_widths]
    small = arch.prune(model, kept).eval()
    assert isinstance(small, HeldTwice)
    assert small.tied[0] is small.embedding.weight
    small(x).sum().backward()
    assert model.embedding.weight.grad is None
    widths, none = tuple(map(len, kept)), ()
    network = KeptNetwork(
        *(
            "held",
            widths,
            none,
            none,
            none,
            none,
            "scored",
            "params",
            1.0,
            None,
            0,
            1.0,
            None,
            small,
        )
    )
    network.save(tmp_path / "small.pt")
    loaded = nsopt.load_network(tmp_path / "small.pt", arch).model
    torch.testing.assert_close(loaded(x), small(x))
