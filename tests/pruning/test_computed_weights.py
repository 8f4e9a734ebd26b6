"""Weights that are computed before their product are fitted too, or named."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import nsopt
from nsopt import NsoptError, trace
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.plan import Inputs
from tests.networks import layers

HIDDEN, KEPT, OUT = 16, 8, 5


class Standardised(nn.Linear):
    """Rows of mean 0 and a deviation that a parameter gives."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.rand(outputs, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        spread, mean = torch.std_mean(self.weight, 1, keepdim=True)
        return functional.linear(x, (self.weight - mean) / spread * self.gain, self.bias)


class Masked(nn.Linear):
    """Some connections are cut, always the same."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", (torch.rand(outputs, inputs) < 0.6).float())

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.mask, self.bias)


class LowRank(nn.Linear):
    """A frozen weight and a product of two small matrices."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad = False
        self.down = nn.Parameter(torch.randn(2, inputs) / 4)
        self.up = nn.Parameter(torch.randn(outputs, 2) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight + self.up @ self.down, self.bias)


class Rounded(nn.Linear):
    """What a quantised network computes: 255 values, gradients as without them."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.weight, 0.02, 0, -127, 127)
        return functional.linear(x, weight, self.bias)


class Patches(nn.Conv1d):
    """A standardised kernel, as in timm, by BatchNorm without statistics."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        rows = functional.batch_norm(rows, None, None, training=True) / 2
        return functional.conv1d(x, rows.reshape_as(self.weight), self.bias, padding=1)


class Bent(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return torch.sinh(weight)


class BentBack(Bent):
    def right_inverse(self, weight: Tensor) -> Tensor:
        return torch.asinh(weight)


def bent(kind: type[nn.Module]) -> nn.Module:
    layer = nn.Linear(HIDDEN, OUT)
    parametrize.register_parametrization(layer, "weight", kind())
    return layer


@layers(last=None, first=nn.Linear(6, HIDDEN))
def Tower(self: Any, x: Tensor) -> Any:
    return self.last(self.first(x).relu())


def best_error(
    u: Tensor, wanted: Tensor, allowed: Callable[[int], Tensor] = lambda _: torch.eye(KEPT)
) -> Tensor:
    """The least error of a linear layer whose rows are combinations of the columns of a matrix."""
    errors = []
    for output in range(OUT):
        rows = torch.cat([u @ allowed(output), torch.ones(len(u), 1)], 1).double()
        target = wanted[:, output].double()
        found = torch.linalg.lstsq(rows, target[:, None]).solution[:, 0]
        errors.append((rows @ found - target).square().mean())
    return torch.stack(errors).mean()


def added_by_norm(model: nn.Module, u: Tensor, wanted: Tensor) -> Tensor:
    """What the least error grows by if a' W b is 1, as a spectral norm keeps it in evaluation."""
    a, b = (
        buffer.double()
        for part in ("u", "v")
        for name, buffer in model.named_buffers()
        if name.endswith(f"_{part}")
    )
    rows = torch.cat([u, torch.ones(len(u), 1)], 1).double()
    best = torch.linalg.lstsq(rows, wanted.double()).solution[:-1].T
    centred = (u - u.mean(0)).double()
    stiffness = a @ a * (b @ torch.linalg.solve(centred.T @ centred, b))
    return (1 - a @ best @ b).square() / stiffness / wanted.numel()


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Linear(HIDDEN, OUT),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(HIDDEN, OUT)),
    "weight norm of columns": lambda: parametrizations.weight_norm(nn.Linear(HIDDEN, OUT), dim=1),
    "old weight norm": lambda: old_weight_norm(nn.Linear(HIDDEN, OUT)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(HIDDEN, OUT)),
    "old spectral norm": lambda: old_spectral_norm(nn.Linear(HIDDEN, OUT)),
    "standardised": lambda: Standardised(HIDDEN, OUT),
    "masked": lambda: Masked(HIDDEN, OUT),
    "low rank": lambda: LowRank(HIDDEN, OUT),
    "rounded": lambda: Rounded(HIDDEN, OUT),
    "without inverse": lambda: bent(Bent),
    "with inverse": lambda: bent(BentBack),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_computed_weight_is_the_best_that_can_be_computed(kind: str) -> None:
    model, x = Tower(KINDS[kind]()).eval(), torch.randn(256, 6)
    arch, kept = trace(model, x[:2]), [torch.arange(KEPT)]
    assert arch.base_widths[0] == HIDDEN
    kept += [torch.arange(width) for width in arch.base_widths[1:]]
    fitted = fit_network(arch, model, kept, Inputs(x), ridge=1e-6)
    assert not fitted.left
    with torch.no_grad():
        wanted, found = model(x), fitted.model(x)
        inherited = arch.prune(model, kept).eval()(x)
        u = model.first(x).relu()[:, :KEPT]
    if kind == "standardised":  # rows of mean 0
        best = best_error(u, wanted, lambda _: (torch.eye(KEPT) - 1 / KEPT)[:, :-1])
    elif "spectral" in kind:
        best = best_error(u, wanted) + added_by_norm(fitted.model, u, wanted)
    elif isinstance(model.last, Masked):
        mask = model.last.mask
        best = best_error(u, wanted, lambda output: torch.diag(mask[output, :KEPT]))
    else:
        best = best_error(u, wanted)
    error = (found - wanted).square().mean()
    assert error < 1.02 * best
    assert error < 0.6 * (inherited - wanted).square().mean()


def test_a_standardised_kernel_of_several_layers_is_fitted() -> None:
    layers = [nn.Conv1d(2, 12, 3), nn.ReLU(), Patches(12, 12, 3), nn.ReLU(), Patches(12, 4, 3)]
    model, x = nn.Sequential(*layers).eval(), torch.randn(64, 2, 20)
    arch = trace(model, x[:2])
    kept = [torch.arange(9) for _ in arch.base_widths]
    fitted = fit_network(arch, model, kept, Inputs(x), ridge=1e-4)
    with torch.no_grad():
        wanted, inherited = model(x), arch.prune(model, kept).eval()(x)
        errors = [(y - wanted).square().mean() for y in (inherited, fitted.model(x))]
    assert not fitted.left
    assert errors[1] < 0.5 * errors[0]


@layers(inner=None, out=None)
def Sequence(self: Any, x: Tensor) -> Any:
    """Sequences through one layer, whose outputs a linear layer reads."""
    x = self.inner(x)
    out: Tensor = self.out(x[0] if isinstance(x, tuple) else x)
    return out[0] if isinstance(out, tuple) else out


@layers(first=nn.Linear(6, 8), experts=nn.Parameter(torch.randn(3, 8, 8) / 3))
def Experts(self: Any, x: Tensor) -> Any:
    return torch.einsum("bti,eio->beto", self.first(x).relu(), self.experts).mean(1)


class ByHand(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None] * self.weight).sum(-2)


@layers(first=nn.Linear(6, 8), weight=nn.Parameter(torch.randn(8, 8) / 3))
def TwoReaders(self: Any, x: Tensor) -> Any:
    """Two weights are computed from one parameter."""
    x = functional.linear(self.first(x).relu(), self.weight * 2)
    return functional.linear(x.relu(), self.weight.tanh())


class Factors(nn.Linear):
    """A weight that no parameter has the shape of."""

    def __init__(self) -> None:
        super().__init__(6, 8)
        del self.weight
        self.up, self.down = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.up @ self.down, self.bias)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (Experts, r"not fitted, only cut: inner \(no product of activations\)"),
        (
            lambda: nn.Sequential(nn.Linear(6, 8), ByHand(8, 8)),
            r"not fitted, only cut: inner.1 \(no product of activations\)",
        ),
        (TwoReaders, r"not fitted, only cut: inner \(used in several ways\)"),
        (Factors, r"not fitted, only cut: inner \(.*\)"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)), None),
        (lambda: nn.LSTM(6, 8, 2, batch_first=True), "inner: fitted step by step"),
    ],
)
def test_what_nothing_fits_is_warned_of(make: Callable[[], nn.Module], named: str | None) -> None:
    model, x = Sequence(make(), nn.Linear(8, 3)).eval(), torch.randn(32, 5, 6)
    arch = trace(model, x[:2])
    halves = [max(1, width // 2) for width in arch.base_widths]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        nsopt.fit(model, halves, x, arch)
    if named is None:
        assert not said
    else:
        assert re.match(named, str(said[0].message))
        assert (said[0].category, said[0].filename) == (UserWarning, __file__)


def test_a_network_of_which_nothing_can_be_fitted_is_refused() -> None:
    model, x = Sequence(ByHand(6, 8), ByHand(8, 3)).eval(), torch.randn(32, 5, 6)
    arch = trace(model, x[:2])
    with pytest.raises(NsoptError, match=r"nothing could be fitted without training: .*inner, out"):
        nsopt.fit(model, [4], x, arch)
    with pytest.raises(NsoptError, match="nothing could be fitted without training"):
        nsopt.compress(model, nsopt.Task(list(x.split(8))), ["params=60%"], epochs=0)
