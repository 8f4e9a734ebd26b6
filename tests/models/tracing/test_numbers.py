"""Numbers that code computes from widths: exact units are exact, and attributes follow."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.models.tracing.trace import trace
from tests.models.tracing.checks import with_zeros


class Scaled(nn.Module):
    """Four layers, the second with a scale that `scale` computes from its weight or its input."""

    def __init__(self, scale: Callable[[Tensor, Tensor], Tensor | float]) -> None:
        super().__init__()
        sizes = (6, 8, 10, 12, 4)
        self.layers = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            y = layer(x)
            x = (y * self.scale(layer.weight, x) if i == 1 else y).relu()
        return x


@pytest.mark.parametrize(
    ("scale", "inexact"),
    [
        (lambda w, x: 1 / math.sqrt(w.shape[1] * 9), [0]),  # equalised learning rate
        (lambda w, x: 1 / w.shape[0], [1]),
        (lambda w, x: w.numel() ** -0.5, [0, 1]),
        (lambda w, x: torch.tensor(float(x.size(1))), [0]),
        (lambda w, x: torch.full((1,), len(w)), [1]),
        (lambda w, x: w.shape[1] // w.shape[1] + 0.5, []),
        (lambda w, x: len(x) * 2, []),
    ],
)
def test_units_with_whose_number_the_code_calculates_are_not_exact(
    scale: Callable[[Tensor, Tensor], Tensor | float], inexact: list[int]
) -> None:
    torch.manual_seed(0)
    model, x = Scaled(scale).double(), torch.randn(2, 6, dtype=torch.float64)
    arch = trace(model, x)
    found = [i for i, group in enumerate(arch.network.family.groups) if not group.exact]
    assert found == inexact
    for removed in range(3):
        kept = [np.arange(n - 2 * (i == removed)) for i, n in enumerate(arch.base_widths)]
        pruned, masked = arch.prune(model, kept), with_zeros(arch, model, kept)
        assert torch.allclose(pruned(x), masked(x)) == (removed not in inexact)


class Equalised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight / math.sqrt(self.weight.shape[1] * 9), padding=1)


def test_equalised_learning_rates_are_marked_in_every_layer() -> None:
    model = nn.Sequential(*(Equalised(a, b, 3) for a, b in [(3, 16), (16, 16), (16, 8), (8, 2)]))
    lines = trace(model, torch.randn(2, 3, 8, 8)).explain().splitlines()[1:4]
    assert all("removing one may differ from setting it to zero" in line for line in lines)
