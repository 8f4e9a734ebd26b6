"""Operations between layers, of which the channels go with those of the layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt import NsoptError, trace
from tests.networks import layers
from tests.tracing.checks import check_pruning, randomise

Operation = Callable[[Tensor], Tensor]  # of features (batch, 12, 8)


def scale_negative(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] *= 2
    return x


def take_logarithms(x: Tensor) -> Tensor:
    found, mask = torch.zeros_like(x), x > 0
    found[mask] = x[mask].log()
    return found


EXACT: dict[str, Operation] = {
    "a mask written": scale_negative,
    "a mask read": take_logarithms,
    "as_strided": lambda x: x.contiguous().as_strided(
        (*x.shape[:2], 3, 4), (*x.stride()[:2], 2, 1)
    ),
    "index_fill": lambda x: x.index_fill(2, torch.tensor([0]), 1.0),
    "index_reduce": lambda x: x[..., :3].index_reduce(2, torch.arange(8) % 3, x, "mean"),
    "sort": lambda x: x.sort(2).values,
    "topk": lambda x: x.topk(3, dim=2).values,
    "kthvalue": lambda x: x.kthvalue(2, dim=2).values,
    "median": lambda x: x.median(2).values,
    "cumprod": lambda x: x.cumprod(2),
    "cummax": lambda x: x.cummax(2).values,
    "logcumsumexp": lambda x: x.logcumsumexp(2),
    "std_mean": lambda x: torch.std_mean(x, 2)[1],
    "nanmean": lambda x: x.nanmean(2),
    "unfold": lambda x: x.unfold(2, 3, 1).sum(3),
    "triu": lambda x: x.unsqueeze(2).expand(-1, -1, 8, 8).triu().sum(2),
    "interpolate": lambda x: functional.interpolate(x, 6),
    "trilinear": lambda x: functional.interpolate(
        x.unflatten(2, (2, 2, 2)), scale_factor=2, mode="trilinear"
    ).flatten(2),
    "squeeze_": lambda x: x.unsqueeze(1).contiguous().squeeze_(1),
    "set_": lambda x: x + torch.empty(0, dtype=x.dtype).set_(x.detach().relu()),  # type: ignore[call-overload]
    "mse_loss": lambda x: x * functional.mse_loss(x, x.flip(2), reduction="none"),
}
RANDOM: dict[str, Operation] = {
    "gumbel": lambda x: functional.gumbel_softmax(x, dim=2),
    "normal": lambda x: torch.normal(x, x.exp()),
    "rrelu": lambda x: functional.rrelu(x, training=True),
}


@layers(operation=None, a=nn.Conv1d(3, 12, 1), out=nn.Linear(12, 4))
def Between(self: Any, x: Tensor) -> Any:
    return self.out(self.operation(self.a(x)).reshape(len(x), self.a.out_channels, -1).sum(2))


@pytest.mark.filterwarnings("ignore:index_reduce")  # is in beta
@pytest.mark.parametrize("name", [*EXACT, *RANDOM])
def test_channels_go_through_an_operation(name: str) -> None:
    model, x = Between((EXACT | RANDOM)[name]), torch.randn(2, 3, 8)
    arch = trace(model, x)
    assert arch.base_widths == (12,)
    randomise(model)
    if name in EXACT:
        check_pruning(arch, model, x)
    assert arch.prune(model, [range(5)])(x).shape == (2, 4)


class Windows(nn.Module):
    def __init__(self, *how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous().as_strided(*self.how)


@pytest.mark.parametrize(
    ("size", "strides", "start"),
    [
        ((2, 4, 12), (96, 12, 1), 1),  # begins in the middle of a step
        ((2, 4, 12), (96, 13, 1), 0),  # each step begins a channel later
        ((2, 7, 12), (96, 6, 1), 0),
    ],
)
def test_channels_moved_stay(size: tuple[int, ...], strides: tuple[int, ...], start: int) -> None:
    model = nn.Sequential(nn.Linear(3, 12), Windows(size, strides, start), nn.Linear(12, 4))
    with pytest.raises(NsoptError, match="0: is read by as_strided in 1"):
        trace(model, torch.randn(2, 8, 3))


def resize(x: Tensor) -> Tensor:
    return torch.empty(0).resize_(x.shape).copy_(x)


def take_storage(x: Tensor) -> Tensor:
    made = torch.empty(0)
    made.set_(x.untyped_storage(), 0, x.shape, x.stride())
    return made


def multiply_in_groups(x: Tensor) -> Tensor:
    ends = torch.tensor([1, 2], dtype=torch.int32)
    return functional.grouped_mm(x[:, :, 0], torch.ones(2, 12, 8), offs=ends)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (resize, "no width .* can change: a: must equal a dimension of fixed size"),
        (take_storage, "no width .* can change: a: "),
        (lambda x: functional.max_pool2d(x, 2), "a: is resized by max_pool2d_with_indices"),
        (multiply_in_groups, "cannot follow F.grouped_mm: .*experts_implementation=.eager"),
    ],
)
def test_what_cannot_be_followed_is_one_line(operation: Operation, message: str) -> None:
    if operation is multiply_in_groups and not hasattr(functional, "grouped_mm"):
        pytest.skip("this PyTorch has no grouped_mm")
    with pytest.raises(NsoptError, match=message):
        trace(Between(operation), torch.randn(2, 3, 8))
