"""One step: what is wrong with a batch is said."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy

from nsopt.compute.device import Compute
from nsopt.errors import NonFiniteLossError, NsoptError
from nsopt.training.step import batch_loss, sgd, train_step
from tests.networks import layers

CPU = Compute(torch.device("cpu"), bf16=False)


def step(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    loss = nn.functional.mse_loss
    return float(train_step(model, sgd(model, 0.1, 0.0, 0.0), inputs, targets, CPU, loss))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_and_targets_that_are_not_numbers_are_named(bad: float) -> None:
    """The learning rate is not to blame."""
    good, wrong = torch.ones(4, 2), torch.ones(4, 2)
    wrong[1, 1] = bad
    with pytest.raises(NonFiniteLossError, match="the inputs of a batch are NaN or infinite"):
        step(nn.Linear(2, 2), wrong, good)
    with pytest.raises(NonFiniteLossError, match="the targets of a batch are NaN or infinite"):
        step(nn.Linear(2, 2), good, wrong)
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, 1e30)
    with pytest.raises(NonFiniteLossError, match="loss of the first batch is inf, before any step"):
        step(model, good, good)


def test_batch_norm_of_a_single_example_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert step(model, torch.rand(2, 2), torch.rand(2, 3)) > 0
    with pytest.raises(NsoptError, match="give the DataLoader drop_last=True"):
        step(model, torch.rand(1, 2), torch.rand(1, 3))


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("mine")


def test_other_errors_of_a_network_stay() -> None:
    with pytest.raises(ValueError, match="mine"):
        step(nn.Sequential(nn.Linear(2, 2), Failing()), torch.rand(1, 2), torch.rand(1, 2))


@dataclass(frozen=True)
class Found:
    numbers: torch.Tensor
    largest: torch.Tensor
    doubled: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "doubled", 2 * self.numbers)
        object.__setattr__(self, "numbers", self.numbers + 1)


@layers(layer=nn.Linear(2, 3))
def Ranking(self: Any, x: torch.Tensor) -> Any:
    found = self.layer(x)
    return Found(found, found.argmax(1)), found


def test_the_loss_gets_wide_numbers_and_integers_as_they_are() -> None:
    def loss(outputs: tuple[Found, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        found, again = outputs
        torch.testing.assert_close(found.numbers, again + 1, atol=0.02, rtol=0)
        torch.testing.assert_close(found.doubled, 2 * again)
        assert found.numbers.dtype == again.dtype == torch.float32
        assert found.largest.dtype == torch.int64
        return found.numbers.gather(1, found.largest[:, None]).sum()

    half = Compute(torch.device("cpu"), bf16=True)
    model = Ranking()
    train_step(model, sgd(model, 0.1, 0.0, 0.0), torch.rand(4, 2), torch.rand(4), half, loss)


def test_a_loss_that_refuses_outputs_of_a_diverged_network_says_so() -> None:
    model, x = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid()), torch.rand(8, 4)
    targets = torch.rand(8, 2)
    nn.init.constant_(model.get_parameter("0.weight"), torch.nan)
    refuses = r"became NaN, which the loss refuses \(.* between 0 and 1\): try a smaller learning"
    with pytest.raises(NonFiniteLossError, match=refuses):
        batch_loss(model, x, targets, CPU, binary_cross_entropy)
    with pytest.raises(NonFiniteLossError, match="the inputs of a batch are NaN or infinite"):
        batch_loss(model, x * torch.nan, targets, CPU, binary_cross_entropy)
    sound = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid())
    with pytest.raises(ValueError, match="target size"):
        batch_loss(sound, x, targets[:3], CPU, binary_cross_entropy)
