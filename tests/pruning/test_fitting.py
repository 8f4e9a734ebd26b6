"""Networks fitted to a trained one by least squares, without training."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt import Architecture, NsoptError, Silent, trace
from nsopt.compute import checkpoint
from nsopt.pruning.fitting import fit
from nsopt.pruning.fitting.fit import Fitted, fit_network
from nsopt.pruning.fitting.least_squares import LeastSquares, most_rows
from nsopt.pruning.fitting.plan import Inputs
from nsopt.pruning.fitting.products import Product
from nsopt.pruning.fitting.watch import ProductWatch
from nsopt.pruning.ranking import rank_by_fit
from nsopt.session.agreement import AgreementScore
from tests.conftest import one_line
from tests.networks import layers


@layers(attention=nn.MultiheadAttention(8, 2, batch_first=True))
def Attention(self: Any, x: Tensor) -> Any:
    return self.attention(x, x, x)[0]


PRODUCTS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Conv1d(3, 4, 5, stride=2, padding=1, dilation=2), (9, 3, 40)),
    (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), groups=2), (9, 4, 9, 8)),
    (lambda: nn.Conv2d(4, 8, 3, padding="same", groups=4, padding_mode="reflect"), (9, 4, 9, 8)),
    (lambda: nn.Conv3d(2, 3, 2, padding=1), (5, 2, 5, 4, 6)),
    (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3, dilation=2, groups=2), (20, 4, 15)),
    (lambda: nn.ConvTranspose2d(3, 4, 3, 2, padding=1, output_padding=1), (9, 3, 5, 6)),
    (lambda: nn.ConvTranspose2d(3, 4, (2, 3), (1, 2), padding=(1, 2)), (9, 3, 7, 6)),
    (lambda: nn.Linear(5, 3), (4, 7, 5)),
    (lambda: nn.Linear(5, 3, bias=False), (40, 5)),
    (Attention, (9, 7, 8)),
]


def all_places(key: str, nth: int, product: Product, result: Tensor) -> Tensor:
    examples, count = product.count_places(result)
    return torch.arange(count).expand(examples, count)


@pytest.mark.parametrize(("make", "shape"), PRODUCTS)
@torch.no_grad()
def test_rows_explain_every_product(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    layer, x = make().eval(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    calls = ProductWatch(layer, all_places, takes_inputs=True).run(lambda: layer(x), x)
    assert calls
    for call in calls:
        product, rows = call.product, call.inputs
        assert rows is not None
        bias = 0 if product.bias is None else product.bias
        wanted = product.split(call.outputs - bias).double()
        found = torch.linalg.lstsq(rows.double(), wanted).solution
        torch.testing.assert_close(rows.double() @ found, wanted, atol=1e-5, rtol=0)
        before = product.weight.clone()
        product.weight.zero_()
        product.change(found)
        torch.testing.assert_close(product.weight, before, atol=1e-5, rtol=0)


def ridge(u: Tensor, missing: Tensor) -> Tensor:
    """The solution as a formula, in float64."""
    gram = u.mT @ u
    squares = gram.diagonal(dim1=-2, dim2=-1)
    penalty = 0.1 * squares + 1e-6 * squares.mean(-1, keepdim=True)
    penalty[:, -1] += (1e-4 - 0.1) * squares[:, -1]
    return torch.linalg.solve(gram + torch.diag_embed(penalty), u.mT @ missing)


@pytest.mark.parametrize("rows", [40, 6])
def test_few_and_many_rows_are_solved_alike(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    u, missing = (torch.randn(2, rows, n, generator=generator) for n in (8, 3))
    solver = LeastSquares(inputs=8, rows=rows, constant=True, ridge=0.1)
    for part in (slice(0, 4), slice(4, None)):
        solver.add(u[:, part], missing[:, part])
    assert solver.by_inputs == (rows > 8)
    ones = torch.ones(2, rows, 1)
    wanted = ridge(torch.cat([u, ones], 2).double(), missing.double())
    torch.testing.assert_close(solver.solve().double(), wanted, atol=1e-4, rtol=1e-4)


@given(st.integers(1, 2**28), st.integers(1, 2**15))
def test_no_array_of_the_equations_exceeds_a_gigabyte(inputs: int, wanted: int) -> None:
    rows = min(wanted, most_rows(inputs))
    solver = LeastSquares(inputs - 1, rows, constant=True, ridge=0.1)
    assert 8 * (inputs if solver.by_inputs else rows) ** 2 <= 2**30
    assert solver.by_inputs or 4 * rows * inputs <= 2**30


def conv_net(norm: bool = True, bias: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=bias),
        *([nn.BatchNorm2d(8)] if norm else []),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=bias),
        *([nn.BatchNorm2d(8)] if norm else []),
        nn.Conv2d(8, 12, 1, bias=bias),
        *([nn.BatchNorm2d(12)] if norm else []),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 6, 2, stride=2),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6 * 100, 5),
    )


@layers(kernel=nn.Parameter(torch.randn(8, 2, 3, 3) / 4), twice=nn.Conv2d(8, 8, 1))
@layers(inner=nn.Conv2d(8, 6, 3, padding=1), outer=nn.Conv2d(6, 8, 3, padding=1))
@layers(norm=nn.BatchNorm2d(8), matrix=nn.Parameter(torch.randn(8, 4) / 3), head=nn.Linear(8, 3))
def Functional(self: Any, x: Tensor) -> Any:
    """Raw parameters, a layer that is called twice, a residual stream, two heads."""
    x = functional.conv2d(x, self.kernel, padding=1).relu()
    x = self.twice(self.twice(x).relu())
    x = x + self.norm(self.outer(self.inner(x).relu()))
    pooled = x.mean((2, 3))
    return {"one": pooled @ self.matrix, "other": self.head(pooled)}


def images(count: int = 64, *shape: int) -> Tensor:
    return torch.randn(count, *(shape or (2, 5, 5)), generator=torch.Generator().manual_seed(1))


def randomise(model: nn.Module) -> nn.Module:
    """Give norms statistics, as after training."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def repeat_units(arch: Architecture, model: nn.Module) -> nn.Module:
    """Make the second half of each group's units copies of the first, where they are made."""
    halves = [torch.arange(width // 2) for width in arch.base_widths]
    others = [torch.arange(width // 2, width) for width in arch.base_widths]
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    first = arch.network.indices([half.numpy() for half in halves])
    second = arch.network.indices([half.numpy() for half in others])
    with torch.no_grad():
        for name, tensor in state.items():
            if not tensor.ndim:
                continue
            if name == "matrix":
                continue
            axis = int(name == "8.weight")  # of the transposed convolution
            one, other = first[name][axis], second[name][axis]
            if len(one) == len(other) < tensor.shape[axis]:
                index = torch.from_numpy(other)
                tensor.index_copy_(axis, index, tensor.index_select(axis, torch.from_numpy(one)))
    return model


def fit_halves(
    model: nn.Module, x: Any, ridge: float = 1e-6, **options: Any
) -> tuple[Architecture, nn.Module, Fitted]:
    """Return the architecture, the network with inherited weights, and the fitted one."""
    arch = trace(model, x[:2])
    repeat_units(arch, model)
    kept = [torch.arange(width // 2) for width in arch.base_widths]
    fitted = fit_network(arch, model, kept, Inputs(x), ridge=ridge, **options)
    return arch, arch.prune(model, kept).eval(), fitted


def outputs(model: nn.Module, x: Any) -> Tensor:
    with torch.no_grad():
        found = model.eval()(x)
    return torch.cat(list(found.values()), 1) if isinstance(found, dict) else found


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (conv_net, (2, 5, 5)),
        (lambda: conv_net(norm=False, bias=True), (2, 5, 5)),
        (Functional, (2, 5, 5)),
    ],
)
def test_repeated_units_are_free(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model, x = randomise(make()), images(128, *shape)
    _, inherited, fitted = fit_halves(model, x)
    wanted, others = outputs(model, x), images(16, *shape)
    assert (outputs(inherited, x) - wanted).square().mean() > 0.05 * wanted.var()
    assert not fitted.left
    error = outputs(fitted.model, others) - outputs(model, others)
    assert error.square().mean() < 1e-4 * wanted.var()


@layers(hidden=nn.Linear(4, 12), out=nn.Linear(12, 5))
def Excluding(self: Any, x: Tensor) -> Any:
    """A classifier that excludes one of its classes."""
    out: Tensor = self.out(self.hidden(x).relu())
    return out + torch.tensor([0.0, 0.0, -torch.inf, 0.0, 0.0])


def test_outputs_that_a_mask_makes_infinite_do_not_count() -> None:
    model, x = randomise(Excluding()), torch.randn(128, 4)
    _, _, fitted = fit_halves(model, x)
    known = [0, 1, 3, 4]
    wanted, found = outputs(model, x)[:, known], outputs(fitted.model, x)
    assert (found[:, known] - wanted).square().mean() < 1e-4 * wanted.var()
    assert found[:, 2].isneginf().all()


def test_a_constant_unit_moves_into_the_mean_of_a_norm_behind_a_layer_without_bias() -> None:
    layers = nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)
    model = randomise(nn.Sequential(*layers, nn.Hardswish(), nn.Conv2d(6, 3, 1)))
    with torch.no_grad():
        layers[0].weight[3], layers[0].bias[3] = 0, 2  # type: ignore[index]
    arch, x = trace(model, images(2)), images()
    kept = [torch.arange(3), torch.arange(6)]
    fitted = fit_network(arch, model, kept, Inputs(x), ridge=1e-6)
    torch.testing.assert_close(outputs(fitted.model, x), outputs(model, x), atol=1e-3, rtol=1e-3)
    means = [network.get_buffer("3.running_mean") for network in (model, fitted.model)]
    assert (means[0] - means[1]).abs().max() > 0.1
    assert model.get_buffer("3.running_var").equal(fitted.model.get_buffer("3.running_var"))


@layers(first=nn.Conv2d(2, 2, 1), second=nn.Conv2d(2, 2, 1), third=nn.Conv2d(2, 2, 1))
@layers(norm=nn.BatchNorm2d(2))
def Clipped(self: Any, x: Tensor) -> Any:
    """Outputs that a ReLU reads alone, a ReLU6 behind a norm, a ReLU beside another operation."""
    x = self.first(x).relu()
    x = functional.relu6(self.norm(self.second(x)))
    x = self.third(x)
    return x.relu() + x


def test_a_layer_is_not_fitted_to_what_an_activation_clips() -> None:
    model, x = Clipped().eval(), images(4)
    calls = ProductWatch(model, all_places, takes_inputs=True).run(lambda: model(x), x)
    assert [call.bounds for call in calls] == [(0, float("inf")), (0, 6), None]

    def run() -> tuple[Tensor, Tensor]:
        return (made := model.first(x)), model.second(made.relu())

    returned, _ = ProductWatch(model, all_places).run(run, x)
    assert returned.bounds is None, "the caller reads it, too"
    calls[1].outputs = torch.tensor([[-1.0, 1.0], [1.0, 5.0], [8.0, 5.0]])
    calls[1].scale = torch.tensor([1.0, 2.0])
    wanted = torch.tensor([[-2.0, -2.0], [3.0, 3.0], [7.0, 7.0]])
    missing = fit._find_missing(calls[1], wanted, calls[1].bounds)
    wanted = torch.tensor([[0, -0.5], [2, -1], [0, 0.5]])
    torch.testing.assert_close(missing, wanted, atol=1e-3, rtol=0)


@layers(stem=nn.Conv2d(2, 4, 3, padding=1))
@layers(first=nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)))
@layers(second=nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False)))
@layers(norm=nn.BatchNorm2d(4))
def Residual(self: Any, x: Tensor) -> Any:
    """A stream to which two branches add."""
    x = self.stem(x)
    stream = x + self.first(x)
    stream += self.norm(self.second(x))
    return stream.mean((2, 3))


def test_a_layer_makes_up_for_the_error_of_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = randomise(Residual()), images()
    with torch.no_grad():  # the second branch computes the units that the first one loses
        for name in ("weight", "bias"):
            one, other = (model.get_parameter(f"{part}.0.{name}") for part in ("first", "second"))
            other[:3] = one[3:]
    arch = trace(model, x[:2])
    assert arch.layer_names == ("first.0", "second.0")
    kept = [torch.arange(3), torch.arange(6)]

    def error() -> float:
        fitted = fit_network(arch, model, kept, Inputs(x), ridge=1e-6)
        return float((outputs(fitted.model, x) - outputs(model, x)).square().mean())

    with_stream = error()
    monkeypatch.setattr(ProductWatch, "_is_sum", lambda *_: False)
    assert with_stream < 0.2 * error()


def test_attention_is_fitted_and_a_fused_kernel_hides_nothing() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 24, batch_first=True, dropout=0.1)
    model, x = nn.Sequential(layer, nn.Linear(8, 3)).eval(), images(64, 6, 8)
    arch = trace(model, x[:2])
    kept = [torch.arange(max(width // 2, 2)) for width in arch.base_widths]
    fitted, inherited = fit_network(arch, model, kept, Inputs(x)), arch.prune(model, kept).eval()
    wanted = outputs(model, x)
    errors = [float((outputs(m, x) - wanted).square().mean()) for m in (inherited, fitted.model)]
    assert errors[1] < 0.7 * errors[0]
    assert not fitted.left


@layers(way=None, first=nn.Linear(8, 16), second=nn.Linear(16, 12, bias=False))
@layers(last=nn.Linear(12, 3), along=nn.Conv1d(16, 12, 1, bias=False))
@layers(added=nn.Parameter(torch.randn(12)))
def Adding(self: Any, x: Tensor) -> Any:
    """Parameters of one dimension that are added to one place, along another axis, and negated."""
    x = self.first(x).relu()
    if self.way == "one place":
        x = self.second(x)[:, -1] + self.added
    elif self.way == "transposed":
        x = (self.second(x).mT + self.added).mT
    elif self.way == "convolution":
        x = (self.along(x.mT) + self.added).mT
    else:
        x = torch.add(self.second(x), self.added, alpha=-2)
    return self.last(x.relu())


@pytest.mark.parametrize("way", ["one place", "transposed", "convolution", "negated"])
def test_a_parameter_that_is_added_in_another_way_is_no_bias(way: str) -> None:
    model, x = Adding(way), images(64, 12, 8)
    arch = trace(model, x[:2])
    kept = [torch.arange(8), *(torch.arange(width) for width in arch.base_widths[1:])]
    fitted = fit_network(arch, model, kept, Inputs(x)).model
    wanted, inherited = outputs(model, x), outputs(arch.prune(model, kept), x)
    errors = [(found - wanted).square().mean() for found in (inherited, outputs(fitted, x))]
    assert errors[1] < 0.6 * errors[0]
    assert fitted.get_parameter("added").equal(model.added)


@layers(first=nn.Linear(4, 8), last=nn.Linear(6, 3), weight=nn.Parameter(torch.randn(8, 6)))
@layers(bias=nn.Parameter(torch.randn(2, 6)))
def TwoBiases(self: Any, x: Tensor) -> Any:
    """One parameter holds a bias and what follows an activation."""
    h = torch.relu(torch.tanh(self.first(x)) @ self.weight + self.bias[0])
    return self.last(h + self.bias[1])


def test_a_part_of_a_parameter_is_no_bias() -> None:
    model = TwoBiases()
    small = nsopt.fit(model, [4, 6], torch.randn(64, 4))
    assert torch.equal(small.get_parameter("bias"), model.bias)


def test_squares_that_overflow_in_fp16_are_finite() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).half()
    small = nsopt.fit(model, [8], 30 * torch.randn(64, 8).half())
    assert all(tensor.isfinite().all() for tensor in small.parameters())


@layers(first=nn.Linear(8, 8), second=nn.Linear(8, 8))
def Subtracted(self: Any, x: Tensor) -> Any:
    x = self.first(x).relu()
    return torch.add(x, self.second(x), alpha=-1)


def test_a_sum_with_a_factor_is_not_made_up_for() -> None:
    model, x = Subtracted().eval(), images(4, 8)
    calls = ProductWatch(model, all_places).run(lambda: model(x), x)
    with torch.no_grad():
        torch.testing.assert_close(calls[1].outputs, model.second(model.first(x).relu()))


@layers(first=nn.Linear(8, 12), tied=nn.Parameter(torch.randn(12, 12) / 4))
@layers(experts=nn.ModuleList(nn.Linear(12, 12) for _ in range(2)), last=nn.Linear(12, 3))
def Tied(self: Any, x: Tensor) -> Any:
    """A matrix that is also used transposed, and experts that may get no examples."""
    x = ((self.first(x).relu() @ self.tied).relu() @ self.tied.T).relu()
    for number, expert in enumerate(self.experts):
        chosen = torch.where((x[:, 0] < 0) == number)[0]  # the first one gets all
        x = x.index_add(0, chosen, expert(x[chosen]).relu())
    return self.last(x)


def test_a_matrix_that_is_also_used_transposed_stays_as_inherited_and_idle_experts_too() -> None:
    model, x = Tied(), images(64, 8)
    arch = trace(model, x[:2])
    halves = [width // 2 for width in arch.base_widths]
    kept = rank_by_fit(arch, model, Inputs(x), Silent()).pick_strongest(tuple(halves))
    fitted, inherited = fit_network(arch, model, kept, Inputs(x)), arch.prune(model, kept)
    assert fitted.left["tied"] == "used in several ways"
    for name, same in (("tied", True), ("experts.1.weight", True), ("experts.0.weight", False)):
        found = fitted.model.get_parameter(name)
        assert found.equal(inherited.get_parameter(name)) == same


@layers(embedding=nn.Embedding(11, 8), mix=nn.Linear(8, 8))
def Words(self: Any, words: Tensor, scale: Tensor) -> Any:
    """An embedding whose weight is also the last layer's."""
    x = self.embedding(words) * scale[:, None, None]
    return (x + self.mix(x).relu()) @ self.embedding.weight.T


def test_layers_that_cannot_be_fitted_stay_as_inherited_and_are_named() -> None:
    words = torch.randint(11, (32, 5), generator=torch.Generator().manual_seed(0))
    model, batches = Words().eval(), [((words, torch.rand(32)), "a target")]
    arch = trace(model, (words[:2], torch.ones(2)))
    kept = [torch.arange(width // 2) for width in arch.base_widths]
    fitted = fit_network(arch, model, kept, Inputs(batches, arguments=2))
    inherited = arch.prune(model, kept)
    assert fit.describe_left(fitted.left) == "embedding (also used otherwise)"
    name = "embedding.weight"
    assert fitted.model.get_parameter(name).equal(inherited.get_parameter(name))
    changed, before = (m.get_parameter("mix.weight") for m in (fitted.model, inherited))
    assert not changed.equal(before)


@layers(first=nn.Linear(4, 8), last=nn.Linear(8, 2))
def Weighed(self: Any, x: Tensor, weight: Tensor) -> Any:
    """Keyword arguments, a second input that has another size."""
    return self.last(self.first(x).relu()) * weight[:, None]


@layers(a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 8, 3), c=nn.Conv2d(8, 4, 3), d=nn.Conv2d(4, 2, 1))
def FindsNothing(self: Any, x: torch.Tensor) -> Any:
    """A detector whose second head gets the images in which the first finds something: none."""
    maps = self.b(self.a(x).relu()).relu()
    chosen = maps[maps.mean((1, 2, 3)) > 1e9]
    return maps, self.d(self.c(chosen).relu())


def test_layers_that_get_no_examples_stay_as_inherited() -> None:
    model, x = FindsNothing().eval(), torch.rand(32, 3, 12, 12)
    arch = trace(model, x[:2])
    kept = [torch.arange(width - 1) for width in arch.base_widths]
    fitted = fit_network(arch, model, kept, Inputs(x))
    assert fitted.left == dict.fromkeys(("c.weight", "d.weight"), "no examples in the first batch")
    assert all(output.isfinite().all() for output in fitted.model(x))


@layers(up=nn.Linear(6, 24), out=nn.Linear(5, 3), experts=nn.Parameter(torch.randn(2, 24, 5) * 0.3))
def Routed(self: Any, x: Tensor) -> Any:
    """Two experts in one weight, to which the sign of the first feature routes."""
    h, first = self.up(x).relu(), x[:, 0] > 0
    y = h.new_zeros(len(x), 5)
    y[first], y[~first] = h[first] @ self.experts[0], h[~first] @ self.experts[1]
    return self.out(y.tanh())


def test_an_expert_without_examples_in_a_batch_is_not_taken_for_another() -> None:
    model, x = Routed().eval(), torch.randn(4000, 6)
    arch = trace(model, x[:8])
    second = torch.cat([-x[:400, :1].abs(), x[:400, 1:]], 1)
    errors = []
    for batches in ([x[400:800]], [x[400:800], second]):
        small = nsopt.fit(model, [12], batches, arch=arch)
        errors.append((small(x) - model(x))[x[:, 0] > 0].square().mean().item())
    assert errors[1] < 1.5 * errors[0]


def test_inputs_may_be_tensors_tuples_dicts_or_pairs_with_targets() -> None:
    x, weight = images(32, 4), torch.rand(32)
    arch, model = trace(Weighed(), (x[:2], weight[:2])), Weighed()
    both: list[Any] = [
        [(x, weight)],
        [((x, weight), torch.zeros(32))],
        [{"x": x, "weight": weight}],
        iter([[x, weight]]),
    ]
    kept = [torch.arange(4)]
    found = [fit_network(arch, model, kept, Inputs(each, arguments=2)).model for each in both]
    for other in found[1:]:
        assert other.get_parameter("last.weight").equal(found[0].get_parameter("last.weight"))
    for each in (both[0], both[1]):
        assert nsopt.fit(model, [4], each).get_parameter("last.weight").shape == (2, 4)
    before = torch.get_rng_state()
    rows = torch.utils.data.TensorDataset(x, weight)
    nsopt.fit(model, [4], torch.utils.data.DataLoader(rows, batch_size=16))  # it draws a seed
    assert torch.get_rng_state().equal(before)
    given = Inputs(torch.utils.data.DataLoader([(row, 1) for row in x], batch_size=20))
    assert [batch.shape for batch in given.batches] == [(20, 4), (12, 4)]


@layers(first=nn.Linear(4, 8), last=nn.Linear(8, 3))
def Scaled(self: Any, x: Tensor, scale: Tensor) -> Any:
    return self.last(torch.relu(self.first(x) * scale))


def test_a_batch_may_hold_numbers_and_a_list_of_inputs() -> None:
    """A DataLoader makes lists of tuples."""
    model, x = Scaled(), torch.randn(16, 4)
    small = nsopt.fit(model, [4], [(x, torch.tensor(2.0))])
    assert small(x, torch.tensor(2.0)).shape == (16, 3)
    rows = [((row, torch.ones(1)), 1) for row in x]
    small = nsopt.fit(model, [4], torch.utils.data.DataLoader(rows, batch_size=16))
    assert small(x, torch.ones(16, 1)).shape == (16, 3)


@layers(layers=conv_net())
def Listed(self: Any, images: list[Tensor]) -> Any:
    return self.layers(torch.stack(images))


def test_a_list_of_examples_is_one_argument() -> None:
    model = Listed()
    batches = [(list(images(8)),), (list(images(8)),)]
    arch = trace(model, batches[0])
    half = [width // 2 for width in arch.base_widths]
    pairs = [(batch, None) for batch in batches]
    for inputs in (batches, pairs):
        assert nsopt.fit(model, half, inputs)(*batches[0]).shape[0] == 8
    with one_line("got 8"):
        Inputs(batches[:1])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (lambda: images(15), "give at least 16 inputs, got 15"),
        (
            lambda: images(20) / 0,
            "batch 0 of the inputs contains NaN or infinite numbers: remove them",
        ),
        (lambda: images(20, 3, 5, 5), "the network does not run on these inputs \\(Given groups=1"),
        (lambda: [images(20).to_sparse()], "batch 0 of the inputs is sparse: give dense tensors"),
        (lambda: [7], "a batch must be a tensor"),
        (lambda: 7, "the inputs must be a tensor of examples"),
        (lambda: torch.tensor(7.0), "the inputs must be a tensor of examples"),
    ],
)
def test_unusable_inputs_raise_one_line(batches: Callable[[], Any], message: str) -> None:
    model = conv_net()
    arch = trace(model, images(2))
    with pytest.raises(nsopt.NsoptError, match=message):
        nsopt.fit(model, arch.base_widths, batches(), arch)


def test_training_mode_and_dropout_do_not_change_the_fit() -> None:
    model, x = randomise(conv_net()), images()
    arch = trace(model, x[:2])
    halves = [width // 2 for width in arch.base_widths]
    found = [nsopt.fit(m, halves, x, arch).state_dict() for m in (model.train(), model.eval())]
    for name, tensor in found[0].items():
        assert tensor.equal(found[1][name])
    assert not nsopt.fit(model.train(), halves, x, arch).training
    assert model.training
    with pytest.raises(nsopt.NsoptError, match="has 8 units, not 9: give at most its own width"):
        nsopt.fit(model, [9, *halves[1:]], x, arch)


def test_an_interrupted_fit_continues_with_the_next_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, file = randomise(Functional()), images(), tmp_path / "fit.pt"
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    _, _, whole = fit_halves(model, x)

    class Stop(Silent):
        def advance(self, detail: str = "") -> None:
            if detail.startswith("outer"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_halves(model, x, progress=Stop(), checkpoint=file)
    monkeypatch.setattr(fit, "_MOST_TARGETS", 1)  # every layer with its own pass
    _, _, continued = fit_halves(model, x, checkpoint=file)
    assert not file.exists()
    for name, tensor in whole.model.state_dict().items():
        assert tensor.equal(continued.model.state_dict()[name])
    assert continued.errors == whole.errors


def test_layers_whose_outputs_never_change_are_ranked() -> None:
    model, x = conv_net(norm=False, bias=True), images()
    arch = trace(model, x[:2])
    halves = [width // 2 for width in arch.base_widths]
    with torch.no_grad():
        model.get_parameter("0.bias").fill_(-100)  # no ReLU behind it is ever above zero
    smaller = nsopt.fit(model, halves, x, arch)
    torch.testing.assert_close(outputs(smaller, x), outputs(model, x), atol=1e-3, rtol=1e-3)
    assert nsopt.fit(model, halves, torch.zeros_like(x), arch)(x).isfinite().all()


class Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


def test_layers_that_are_not_finite_are_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 12), Root(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(NsoptError, match="are not finite: check the inputs and the weights"):
        nsopt.fit(model, [8, 4], torch.randn(32, 6))


class Masked(nn.Module):
    """Attention without a key gives NaN; the function of TorchScript wraps what it raises."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(9, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)
        with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
            self.halve = torch.jit.script(_halve)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        x = x + self.attention(x, x, x, key_padding_mask=words == 0)[0]
        return self.out(x + self.second(self.halve(self.first(x))))


def _halve(x: Tensor) -> Tensor:
    return x.relu() / 2


def test_rows_that_are_nan_in_the_trained_network_do_not_count() -> None:
    model, words = Masked(), torch.randint(1, 9, (32, 5))
    words[3] = 0  # masks this whole example
    model.second.weight.data[:, 8:] = 0
    model.second.bias.data[:] = 1
    smaller = nsopt.fit(model, [2, 8], words)
    left = torch.arange(32) != 3
    torch.testing.assert_close(smaller(words)[left], model.eval()(words)[left])


@pytest.mark.parametrize("size", [1, 16])
def test_a_unit_that_another_one_repeats_is_lost_first_whatever_the_batch(size: int) -> None:
    model, x = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)), torch.randn(32, 6)
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            repeated = model.get_parameter(name)
            repeated[4] = repeated[3].mul_(10)  # norms would rank both last
    arch = trace(model, x[:2])
    (scores,) = rank_by_fit(arch, model, Inputs(list(x.split(size))), Silent()).scores
    assert int(scores.argmin()) in (3, 4)


def test_weights_that_are_not_finite_are_named_before_a_fit() -> None:
    model = conv_net()
    arch = trace(model, images(2))
    with torch.no_grad():
        model.get_parameter("0.weight")[0] = torch.nan
    with pytest.raises(nsopt.NsoptError, match=r"0\.weight of the model has values that are NaN"):
        nsopt.fit(model, arch.base_widths, images(), arch)


def test_units_are_ranked_by_how_they_vary_not_by_their_mean() -> None:
    """As behind a gate or a pooling: float32 holds three digits of what varies."""
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), torch.randn(512, 8)
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.eye(8).repeat(2, 1) / 1000)
        model.get_parameter("0.bias").fill_(100)
    arch = trace(model, x[:2])
    (scores,) = rank_by_fit(arch, model, Inputs(list(x.split(64))), Silent()).scores
    first, others = scores.sort().values.chunk(2)
    assert float(first.max()) < float(others.min()) / 1000
    assert {int(unit) % 8 for unit in scores.argsort()[:8]} == set(range(8))


class Silenced(nn.Module):
    """A residual network whose last norm multiplies by zero, as many begin."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last, self.norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.mix, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 4)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = x + self.norm(self.last(self.inner(x).relu()))
        return self.head(self.mix(x).relu().mean((2, 3)))


def test_a_layer_whose_outputs_a_norm_silences_stays_finite() -> None:
    model, x = Silenced().eval(), torch.randn(32, 3, 8, 8)
    arch = trace(model, x[:2])
    smaller = nsopt.fit(model, [width // 2 for width in arch.base_widths], x, arch)
    assert all(value.isfinite().all() for value in smaller.state_dict().values())


def test_agreement_leaves_the_mode_of_every_module() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    model[1].eval()
    AgreementScore(model, Inputs(torch.randn(16, 4)))
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_agreement_and_cost_rise_with_the_budget() -> None:
    model, x = randomise(conv_net()), images(96)
    arch = trace(model, x[:2])
    repeat_units(arch, model)
    agreement, cost = AgreementScore(model, Inputs(x)), arch.cost("macs")
    ranking, whole = rank_by_fit(arch, model, Inputs(x), Silent()), cost(arch.base_widths)
    found = []
    for share in (0.1, 0.7):
        widths = ranking.per_cost(cost).widths_within(cost, share * whole)
        assert 0.5 * share * whole < cost(widths) <= share * whole
        kept = ranking.pick_strongest(widths)
        found.append(agreement(fit_network(arch, model, kept, Inputs(x)).model))
    assert found[0] < found[1] < agreement(model) == 100
    one_by_one = AgreementScore(model, Inputs(x, batch_size=1))
    other = arch.build(arch.base_widths).eval()
    assert one_by_one(other) == pytest.approx(agreement(other), rel=1e-4)
    with pytest.raises(nsopt.NsoptError, match="no widths fit a budget"):
        ranking.per_cost(cost).widths_within(cost, 1.0)
