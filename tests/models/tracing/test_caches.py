"""Whatever code remembers of a trace outside its modules, the user's network computes as before."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import nsopt
from tests.models.tracing.remembering import PLACES, Remembering

X = torch.randn(4, 8)


@pytest.mark.parametrize("name", PLACES)
def test_a_network_computes_as_before_wherever_it_remembers_a_table(name: str) -> None:
    torch.manual_seed(0)
    model = Remembering(name).eval()
    hidden = model.b(model.a(X).relu()).relu()
    expected = model.c(hidden * torch.linspace(1, 2, 4).sum())
    for _ in range(2):
        assert nsopt.trace(model, X).base_widths == (16, 12)
        for _ in range(2):
            out = model(X)
            assert type(out) is Tensor
            torch.testing.assert_close(out, expected)


def test_fake_tensors_of_the_user_and_what_else_changes_stay() -> None:
    fake = FakeTensorMode().from_tensor(torch.ones(3))
    calls: list[int] = []
    mine: dict[Any, Tensor] = {"mine": fake}

    class Counting(Remembering):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(mine))
            return super().forward(x)

    model = Counting("slot")
    model.get = lambda: torch.ones(1)
    nsopt.trace(model, X)
    assert len(calls) > 2  # as after calls by the user
    model.get = lambda: mine.setdefault(4, torch.ones(1))
    nsopt.trace(model, X)
    assert list(mine) == ["mine"]
    assert mine["mine"] is fake


def test_a_network_whose_code_remembers_a_table_can_be_pruned() -> None:
    model = Remembering("callable_object").eval()
    smaller = nsopt.trace(model, X).prune(model, [range(5), range(4)])
    assert type(smaller(X)) is Tensor
