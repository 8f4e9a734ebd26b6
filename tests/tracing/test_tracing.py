"""Tracing of networks whose channels are hard to follow."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.testing._internal.two_tensor import TwoTensor

import nsopt
from nsopt import Architecture, NsoptError, trace
from tests.conftest import one_line
from tests.networks import layers
from tests.tracing import awkward, fields, parts
from tests.tracing.checks import check_network_of, trace_unchanged

GROUPS: dict[type[nn.Module], list[int]] = {  # widths in forward order
    awkward.Chunks: [8, 16, 24],
    awkward.CrossStaged: [8, 16, 16, 24],
    awkward.CountedChannels: [16, 24],
    awkward.MixedKernels: [8, 24],
    awkward.Cropped: [16, 16, 24],
    awkward.PaddedShortcut: [16],
    awkward.Norms: [8, 64, 24],
    awkward.UpAndDown: [16, 32, 16, 16],
    awkward.Shuffled: [16, 24],
    awkward.UnequalParts: [6, 24, 24],
    awkward.WrittenSize: [16, 32],
    awkward.Flattened: [16, 8, 32],
    awkward.RawParameter: [16, 24, 16],
    awkward.Unused: [16],
    awkward.Features: [24],
    awkward.Transformer: [4, 64],
    awkward.Pieces: [8, 8, 24],
    awkward.SumOfJoined: [16, 24, 8],
    awkward.Assigned: [24, 12],
    awkward.Grouped: [8, 16, 16],
    awkward.Unruled: [16, 12],
}


def trace_network(kind: type[nn.Module]) -> tuple[Architecture, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(2, 3, 32, 32)
    return trace_unchanged(model, x), model, x


@pytest.mark.parametrize("kind", GROUPS, ids=lambda kind: kind.__name__)
def test_an_awkward_network_can_be_traced_pruned_and_resized(kind: type[nn.Module]) -> None:
    check_network_of(*trace_network(kind), GROUPS[kind], searches=False)


def test_an_architecture_prints_as_one_line() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    traced = trace(layers, torch.rand(2, 3, 4, 4), name="net")
    assert repr(traced) == "Architecture(name='net', base_widths=(4,))"
    assert len(repr(nsopt.get_architecture("vgg11"))) < 100


def test_explain_gives_the_reasons_for_fixed_widths() -> None:
    arch, _, _ = trace_network(awkward.Unruled)
    text = arch.explain()
    assert text.startswith("unruled: 2 widths\n  a.0: 16 units\n")
    assert "no rule for the operation aten::linalg_matrix_exp in the network" in text
    assert "fixed: head.linear: determines the shape of the output in the network" in text
    arch, _, _ = trace_network(awkward.WrittenSize)
    fixed = [line for line in arch.explain().splitlines() if line.startswith("  fixed: b.0: ")]
    assert len(fixed) == 1
    assert "shape '[-1, 512]' is invalid" in fixed[0]
    arch = trace(awkward.Chunks(), torch.randn(2, 3, 32, 32), fixed=["halves"])
    assert "fixed: blocks.0.0: belongs to a fixed group" in arch.explain()
    arch, _, _ = trace_network(awkward.Unused)
    assert "fixed: dead.0: is never used" in arch.explain()


def test_widths_that_a_user_fixes_are_not_searched() -> None:
    model, x = awkward.Chunks(), torch.randn(2, 3, 32, 32)
    arch = trace(model, x, name="mine", fixed=["halves"])
    assert arch.name == "mine"
    assert arch.layer_names == ("stem.0", "joined.0")
    with one_line("unknown module 'halvs': did you mean 'halves'"):
        trace(model, x, fixed=["halvs"])


def test_a_user_fixes_the_outputs_of_transposed_convolutions_and_embeddings() -> None:
    arch = trace(awkward.UpAndDown(), torch.randn(2, 3, 32, 32), fixed=["up"])
    assert arch.layer_names == ("a.0", "b.0", "c.0")
    arch = trace(fields.Text(), torch.randint(50, (2, 12)), fixed=["embedding"])
    assert arch.layer_names == ("each.0", "each.1")
    model = awkward.UpAndDown()
    nn.utils.parametrizations.weight_norm(model.up)
    arch = trace(model, torch.randn(2, 3, 32, 32), fixed=["up"])
    assert arch.layer_names == ("a.0", "b.0", "c.0")


@layers(table=nn.Parameter(torch.ones(3, 8)), first=nn.Linear(4, 8), last=nn.Linear(8, 2))
def Reassigning(self: Any, x: torch.Tensor) -> Any:
    """Writes a table anew, with a row for each input; and limits the norms of a weight (EEGNet)."""
    self.table.data = self.table.data[:1].repeat(len(x), 1)
    self.first.weight.data = torch.renorm(self.first.weight.data, p=2, dim=0, maxnorm=0.5)
    return self.last(self.first(x) + self.table[:1])


def compile_first() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated
        return nn.Sequential(torch.jit.trace(nn.Linear(8, 16), torch.zeros(2, 8)), nn.Linear(16, 2))


def consist_of_others() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    model[0].weight = nn.Parameter(TwoTensor(torch.ones(16, 8), torch.ones(16, 8)))
    return model


X, ROWS = torch.zeros(2, 3, 32, 32), torch.zeros(2, 8)
ALONE = "no width of this network can change: "
REFUSED: list[tuple[Callable[[], nn.Module], torch.Tensor, str]] = [
    (awkward.Deciding, X, "depends on the values of tensors, in the network"),
    (parts.OneValue, X, "a norm in training mode has only one value per channel, in the network"),
    (awkward.LinearOnly, X, f"{ALONE}.*determines the shape of the output"),
    (lambda: nn.Sequential(nn.Conv2d(3, 1, 3)), X, f"{ALONE}no layer lies between two others$"),
    (compile_first, ROWS, r"^0 is compiled by TorchScript"),
    (consist_of_others, ROWS, r"^0\.weight is a TwoTensor: give a network of plain"),
    (
        lambda: torch.export.export(nn.Linear(8, 2), (ROWS,)).module(),
        ROWS,
        "give the module from which it was exported",
    ),
    (lambda: nn.Sequential(nn.Linear(8, 2)), ROWS.double(), "have different number types in 0 "),
    (lambda: nn.Sequential(nn.LazyLinear(4)), ROWS, "0.weight has no shape yet: call the network"),
    (Reassigning, torch.randn(2, 4), r"of another shape or type to \.data"),
]


@pytest.mark.parametrize(("make", "x", "message"), REFUSED)
def test_untraceable_networks_are_refused_in_a_line(
    make: Callable[[], nn.Module], x: torch.Tensor, message: str
) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(make(), x)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ((), "or a tuple of the arguments that `forward` takes, or .*: got no tensor"),
        ({"x": None}, "got no tensor"),
        (torch.tensor(1.0), "at least two examples, along the first dimension"),
        (([X[0]],), "at least two examples.*; a list is one argument with an item for each"),
        (X.to("meta"), "the example input is on the meta device, without values: pass numbers"),
    ],
    ids=["empty", "none", "scalar", "one image in a list", "meta"],
)
def test_example_inputs_that_are_no_tensors_are_refused(examples: Any, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(awkward.Chunks(), examples)


@layers(gru=nn.GRU(8, 16), head=nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 2)))
def LastStep(self: Any, x: torch.Tensor) -> Any:
    """Steps come first, as PyTorch's recurrent layers want by default; the last one decides."""
    return self.head(self.gru(x)[0][-1])


def test_inputs_whose_first_dimension_is_no_batch_get_a_warning() -> None:
    arch = nsopt.trace(LastStep(), torch.randn(10, 4, 8))
    warning = "10 examples take 70% of 10 times the MACs of one, which budgets count: is the first"
    assert arch.batch_warning.startswith(warning)
    assert warning in arch.explain()


@layers(a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 8, 1), c=nn.Conv2d(8, 4, 1))
def Maps(self: Any, maps: list[torch.Tensor]) -> Any:
    """Takes a list of feature maps of several sizes."""
    large, small = self.a(maps[0]), self.b(maps[1])
    return self.c((large + nn.functional.interpolate(small, scale_factor=2)).relu())


@layers(a=nn.Conv3d(4, 8, 1), b=nn.Linear(8, 4))
def Clips(self: Any, clips: list[torch.Tensor]) -> Any:
    return torch.stack([self.b(self.a(clip).mean((1, 2, 3))) for clip in clips])


@pytest.mark.parametrize(
    ("kind", "shapes", "macs"),
    [
        *((Maps, [(n, 3, 8, 8), (n, 3, 4, 4)], 8 * (3 * 64 + 3 * 16 + 4 * 64)) for n in (2, 4)),
        (Clips, [(4, 2, 3, 5)] * 3, 8 * (4 * 2 * 3 * 5 + 4)),
    ],
)
def test_a_list_is_one_of_examples_only_if_all_have_one_size(
    kind: type[nn.Module], shapes: list[tuple[int, ...]], macs: int
) -> None:
    arch = trace(kind(), ([torch.randn(shape) for shape in shapes],))
    assert arch.cost("macs")(arch.base_widths) == macs


def test_norms_whose_scale_is_computed_can_be_built() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    prune.l1_unstructured(model[1], "weight", 0.3)
    assert trace(model, torch.randn(2, 8)).build([4])(torch.randn(2, 8)).shape == (2, 4)


def test_a_weight_that_forward_replaces_by_one_of_its_shape_can_be_pruned() -> None:
    model, x = Reassigning(nn.Parameter(torch.ones(2, 8))), torch.randn(2, 4)
    arch = nsopt.trace(model, x)
    assert arch.base_widths == (8,)
    smaller = arch.prune(model, [[0, 2, 5]])
    assert smaller(x).shape == (2, 2)
    assert (smaller.get_parameter("first.weight").norm(dim=1) <= 0.5 + 1e-6).all()


def test_weights_that_are_not_finite_show_no_initialisation() -> None:
    model = awkward.Chunks()
    model.get_parameter("stem.0.weight").data[0] = torch.nan
    arch = trace(model, X)
    assert "widths" in arch.explain()
    with pytest.raises(NsoptError, match=r"stem\.0\.weight of .* are NaN or infinite: trace one"):
        arch.build(arch.base_widths)


@layers(kept={"maps": []}, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 4, 3))
def Keeping(self: Any, x: torch.Tensor) -> Any:
    """Keeps its last map in a list in a dictionary, as networks do to show their attention."""
    self.kept = {"maps": [self.b(self.a(x).relu())]}
    return self.kept["maps"][0]


def test_a_network_that_keeps_activations_can_be_pruned_and_built() -> None:
    model = Keeping()
    arch = trace(model, X)
    model(X).sum().backward()
    arch.prune(model, [[0, 1]])
    arch.build([2])
    assert model.kept["maps"][0].grad_fn is not None


def test_norms_alone_can_be_trained_and_scored() -> None:
    model = awkward.Chunks().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
    norms = trace(model, X).filter_norms(model)
    assert [len(norm) for norm in norms] == [8, 16, 24]


def test_invalid_arguments_raise_errors() -> None:
    arch, model, x = trace_network(awkward.Chunks)
    with pytest.raises(NsoptError, match="at least two examples"):
        trace(model, x[:1])
    with pytest.raises(NsoptError, match="chunks has 3 widths, got 2"):
        arch.build([1, 2])
    with pytest.raises(NsoptError, match="at least 1"):
        arch.build([1, 0, 1])
    with pytest.raises(NsoptError, match=r"unknown metric.*latency, macs, params"):
        arch.cost("flops")
    with pytest.raises(NsoptError, match="chunks has 3 groups, got 1"):
        arch.prune(model, [[0]])
    with pytest.raises(NsoptError, match="chunks has 3 groups, got None"):
        arch.prune(model, None)
    with pytest.raises(NsoptError, match=r"family.*: stem\.0\.weight is missing"):
        arch.prune(nn.Sequential(model), [[0]] * 3)
    other = awkward.Chunks()
    other.register_buffer("table", torch.zeros(3))
    with pytest.raises(NsoptError, match="has no table: trace this model instead"):
        arch.prune(other, [[0]] * 3)


def test_new_networks_have_the_spread_of_the_original() -> None:
    """A weight of half the inputs is drawn sqrt(2) times as wide; constants and biases stay."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 96, 5), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 1)),
    )
    spreads = {"0.weight": 0.3, "1.weight": 0.02, "3.weight": 0.05, "3.bias": 0.1, "7.weight": 0.2}
    for name, spread in spreads.items():
        nn.init.normal_(model.get_parameter(name), float(name == "1.weight"), spread)
    nn.init.constant_(model.get_parameter("0.bias"), 0.1)
    model.eval()
    built = trace(model, torch.randn(2, 3, 16, 16)).build([32, 192])
    expected = spreads | {"3.weight": 0.05 * 2**0.5, "7.weight": 0.2 / 2**0.5}
    for name, spread in expected.items():
        new = built.get_parameter(name).detach()
        assert float(new.std()) == pytest.approx(spread, rel=0.4 if len(new) == 32 else 0.25), name
        assert float(new.mean()) == pytest.approx(float(name == "1.weight"), abs=spread / 2)
    assert (built.get_parameter("0.bias") == 0.1).all()
    assert not built.get_parameter("1.bias").any()


def test_new_networks_keep_values_that_were_not_drawn() -> None:
    """A spatial transformer starts at the identity, an embedding with zeros for the padding."""
    model = fields.Text()
    model.embedding, model.out = nn.Embedding(50, 16, padding_idx=3), nn.Linear(16, 6)
    identity = torch.tensor([1.0, 0, 0, 0, 1, 0])
    model.out.bias = nn.Parameter(identity.clone())
    model.out.weight = nn.Parameter(torch.eye(6, 16))
    arch = trace(model, torch.randint(50, (2, 12)))
    same, smaller, narrow = (arch.build(widths) for widths in ([16, 8, 8], [16, 8, 4], [4, 8, 8]))
    assert torch.equal(same.get_parameter("out.weight"), torch.eye(6, 16))
    assert smaller.get_parameter("out.weight").any(dim=0).all()
    assert narrow.get_parameter("embedding.weight").std().item() == pytest.approx(1, rel=0.3)
    for built in (same, smaller):
        assert torch.equal(built.get_parameter("out.bias"), identity)
        assert not built.get_parameter("embedding.weight")[3].any()


STEM = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, affine=False)).requires_grad_(False)


@layers(stem=STEM, norm=nn.BatchNorm1d(16, affine=False), a=nn.Linear(16, 12), b=nn.Linear(12, 5))
def FrozenStem(self: Any, x: torch.Tensor) -> Any:
    return self.b(self.a(self.norm(self.stem(x).relu())).relu())


def test_norms_without_a_scale_are_frozen_with_the_layers_around_them() -> None:
    model = FrozenStem()
    model(torch.randn(64, 8))
    built = trace(model, torch.randn(2, 8)).build([16, 12])
    mean = "stem.1.running_mean"
    torch.testing.assert_close(built.get_buffer(mean), model.get_buffer(mean), rtol=0, atol=0)
    assert not built.get_buffer("norm.running_mean").any()


def test_inference_mode_of_the_caller_does_not_matter() -> None:
    """The network may even have been made there."""
    outside = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.inference_mode():
        inside = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
        found = [nsopt.trace(each, torch.zeros(2, 1, 8, 8)) for each in (outside, inside)]
    assert [arch.base_widths for arch in found] == [(4,), (4,)]
    weights = [each.state_dict()["0.weight"] for each in (inside, found[1].network.template)]
    assert torch.equal(*weights)
