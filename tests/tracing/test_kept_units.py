"""`prune` and `inherit` keep the units that a user names."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nsopt
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.trace import trace
from tests.tracing import awkward
from tests.tracing.checks import randomise


def trace_chunks() -> tuple[Architecture, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = awkward.Chunks(), torch.randn(2, 3, 32, 32)
    return trace(model, x), model, x


UNITS_KEPT: list[tuple[Any, str]] = [
    ([], "give at least one unit of stem.0"),
    (torch.zeros(8, dtype=torch.bool), "give at least one unit of stem.0"),
    *(
        (units, "units to keep of stem.0 must be ascending integers below 8, or a mask of 8")
        for units in ([8], [-1], [2, 1], [1, 1], [0.0, 1.0], [[0, 1]], [True, False])
    ),
]


@pytest.mark.parametrize(("units", "message"), UNITS_KEPT, ids=str)
def test_invalid_units_to_keep_are_refused(units: Any, message: str) -> None:
    arch, model, _ = trace_chunks()
    with pytest.raises(NsoptError, match=message):
        arch.prune(model, [units, [0], [0]])
    with pytest.raises(NsoptError, match=message):
        arch.inherit(model, [units, [0], [0]], [8, 1, 1])
    with pytest.raises(NsoptError, match=r"give at most 1 units of stem\.0, got 2"):
        arch.inherit(model, [[0, 1], [0], [0]], [1, 1, 1])


def test_masks_keep_the_same_units_as_their_indices() -> None:
    arch, model, x = trace_chunks()
    kept = [torch.tensor([1, 6]), torch.tensor([0, 15]), torch.tensor([3])]
    masks = [
        torch.zeros(w, dtype=torch.bool).index_fill(0, k, True)
        for w, k in zip(arch.base_widths, kept, strict=True)
    ]
    pruned = arch.prune(model, kept).eval()
    for network in (arch.prune(model, masks), arch.inherit(model, masks, [2, 2, 1])):
        torch.testing.assert_close(network.eval()(x), pruned(x), rtol=0, atol=0)


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Linear(16, 100)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x).mean((2, 3), keepdim=True).squeeze())
        return y


def test_a_single_unit_with_which_the_network_does_not_run_is_refused() -> None:
    model, x = Squeezed(), torch.randn(4, 3, 8, 8)
    arch = nsopt.trace(model, x)
    with pytest.raises(NsoptError, match="reduction dim"):
        arch.prune(model, [[0]])
    assert arch.prune(model, [[0, 5]])(x).shape == (4, 100)


def test_parameters_keep_the_attributes_that_code_gave_them() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    model[0].bias.no_weight_decay = True
    smaller: Any = nsopt.trace(model, torch.randn(2, 8)).prune(model, [range(4)])
    assert smaller[0].bias.no_weight_decay


def test_a_network_can_be_pruned_again() -> None:
    """Indices count the units that are left, also behind a concatenation."""
    arch, model, x = trace_chunks()
    randomise(model)
    first, second = [[1, 2, 6], [0, 3, 9, 15], [3, 20]], [[0, 2], [1, 3], [1]]
    twice = arch.prune(arch.prune(model, first), second).eval()
    once = arch.prune(model, [[a[i] for i in b] for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(twice(x), once.eval()(x), rtol=0, atol=0)
