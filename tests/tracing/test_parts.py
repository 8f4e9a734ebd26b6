"""Networks with recurrent layers, attention and computed weights can be traced and pruned."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nsopt import NsoptError, trace
from tests.networks import layers
from tests.tracing import hand_written, parts
from tests.tracing.checks import check_network_of, trace_unchanged

GROUPS: dict[type[nn.Module], list[int]] = {  # widths in forward order
    parts.CodesOfPlaces: [16, 24],
    parts.MixtureOfKernels: [16, 8],
    parts.SummedByOnes: [16, 24],
    parts.TransformerOfNumbers: [32, 12, 12],
    parts.NarrowKeys: [16, 8, 24],
    parts.UnevenHeads: [8, 4],
    parts.OneQuery: [16, 1, 12],
    parts.WrittenRows: [16, 6],
    parts.PartlyConvolved: [4, 12, 4, 24, 4, 12],
    parts.WrittenGroups: [4, 3],
    parts.PoolingTransformer: [16, 12],
    parts.UnitVectors: [16, 24, 12],
    parts.Complex: [16, 24],
    parts.RecurrentBothWays: [16, 10, 14, 12],
    parts.Packed: [16, 10, 12],
    parts.Prototypes: [16, 12],
    parts.Unpooled: [16, 8],
    parts.ConvolvedState: [8],
    parts.WrittenZeros: [16, 12],
    parts.Variational: [16, 8, 12],
    parts.Bags: [16],
    parts.Text: [16, 24],
    parts.WeightNormed: [4, 12],
    parts.WeightNormedByHooks: [4, 12],
    parts.SpectrallyNormed: [4, 12],
    parts.Normed: [4, 12],
}


@pytest.mark.parametrize("kind", GROUPS, ids=lambda kind: kind.__name__)
def test_a_network_can_be_traced_resized_searched_and_pruned(kind: type[nn.Module]) -> None:
    model, x = kind(), torch.randn(2, 3, 32, 32)
    arch = trace_unchanged(model, x)
    assert arch.explain().splitlines()[0] == f"{arch.name}: {len(GROUPS[kind])} widths"
    check_network_of(arch, model, x, GROUPS[kind], searches=True)


BY_HAND: dict[type[nn.Module], list[int]] = {
    hand_written.SplitsOfKeywords: [32, 8, 8, 8, 8],  # channels of a head, by block
    hand_written.OneHeadSize: [32, 8, 8],
    hand_written.SizeOfAllHeads: [32, 8, 8],
    hand_written.Rotary: [32, 2, 2],  # heads of keys
}


@pytest.mark.parametrize("kind", BY_HAND, ids=lambda kind: kind.__name__)
def test_attention_whose_code_gives_all_sizes_can_change(kind: type[nn.Module]) -> None:
    blocks, x = nn.ModuleList([kind(), kind()]), torch.randn(2, 3, 12, 12)
    arch = trace_unchanged(model := hand_written.Transformer(blocks), x)
    check_network_of(arch, model, x, BY_HAND[kind], searches=True)


@layers(a=nn.Linear(3, 12), b=nn.Linear(4, 2))
def WrittenParts(self: Any, x: torch.Tensor) -> Any:
    """Cuts where the code says, whatever the widths."""
    small, large = self.a(x).split([4, x.shape[0] * 4], dim=1)
    return self.b(small) + large.mean(1, keepdim=True)


def test_parts_whose_sizes_are_written_in_the_code_stay() -> None:
    message = "no width of this network can change: a: "
    with pytest.raises(NsoptError, match=message):
        trace(WrittenParts(), torch.randn(2, 3))


# Layers that cut 16 channels into 6 and 10.
CUT: dict[str, Any] = {"cut": 6, "a": nn.Linear(3, 16), "all": nn.Linear(16, 8)}
CUT |= {"small": nn.Linear(6, 8), "large": nn.Linear(10, 8), "head": nn.Linear(8, 2)}


@layers(**CUT)
def SlicedByAttribute(self: Any, x: Tensor) -> Any:
    x = self.a(x).relu()
    return self.head((self.small(x[:, : self.cut]) + self.large(x[:, self.cut :])).relu())


@layers(**CUT)
def SlicedByNumber(self: Any, x: Tensor) -> Any:
    x = self.a(x).relu()
    return self.head((self.small(x[:, :6]) + self.large(x[:, 6:])).relu())


@layers(**CUT | {"small": nn.Linear(6, 6)})
def PartChanged(self: Any, x: Tensor) -> Any:
    """Computes only a part of the channels anew (FasterNet)."""
    x = self.a(x).relu()
    x = torch.cat([self.small(x[:, : self.cut]), x[:, self.cut :]], 1)
    return self.head(self.all(x).relu())


@layers(**CUT)
def PartSummed(self: Any, x: Tensor) -> Any:
    """No weight tells which channels are of which part."""
    x = self.a(x).relu()
    first, rest = x.split([self.cut, x.shape[1] - self.cut], 1)
    return self.head(self.all(x).relu()) + first.sum(1, True) - rest.sum(1, True)


@layers(**CUT)
def SlicedByShare(self: Any, x: Tensor) -> Any:
    """The parts can only shrink together, which no width says."""
    x = self.a(x).relu()
    first = x.shape[1] * 3 // 8
    return self.head((self.small(x[:, :first]) + self.large(x[:, first:])).relu())


@layers(**CUT | {"small": nn.Linear(5, 8), "large": nn.Linear(11, 8)})
def SplitByNumber(self: Any, x: Tensor) -> Any:
    """The first five channels stay; sizes without a common divisor are no heads."""
    x = self.a(x).relu()
    first, rest = x.split([5, x.shape[1] - 5], 1)
    return self.head((self.small(first) + self.large(rest)).relu())


@layers(**CUT, positions=nn.Parameter(torch.randn(9, 16)))
def LongerTable(self: Any, x: Tensor) -> Any:
    """Positions beyond this input are for longer ones."""
    x = self.a(x)
    return self.head(self.all((x + self.positions[: len(x)]).relu()).relu())


@pytest.mark.parametrize(
    ("kind", "widths"),
    [
        (SlicedByAttribute, [6, 10, 8]),
        (SlicedByNumber, [10, 8]),
        (PartChanged, [6, 10, 6, 8]),
        (PartSummed, [8]),
        (SlicedByShare, [8]),
        (SplitByNumber, [11, 8]),
        (LongerTable, [16, 8]),
    ],
)
def test_unequal_slices_change_each_by_itself(kind: type[nn.Module], widths: list[int]) -> None:
    model, x = kind(), torch.randn(8, 3)
    check_network_of(trace(model, x), model, x, widths, searches=False)


@layers(a=nn.Linear(3, 12), b=nn.Linear(3, 12), head=nn.Linear(12, 4))
def BesideCoordinates(self: Any, x: Tensor) -> Any:
    """Coordinates and features are gathered together, and cut again by a number."""
    both = torch.cat([x, self.a(x).relu()], -1)
    return self.head((self.b(both[:, :3]) + both[:, 3:]).relu())


def test_parts_that_were_concatenated_are_cut_again() -> None:
    model, x = BesideCoordinates(), torch.randn(8, 3)
    check_network_of(trace(model, x), model, x, [12], searches=False)


def test_a_part_that_no_weight_tells_apart_stays() -> None:
    explained = trace(PartSummed(), torch.randn(8, 3)).explain()
    assert "fixed: a: is cut into parts that no weight tells apart" in explained


def test_complex_weights_in_double_precision_are_refused() -> None:
    message = "^the input is float64, but filters is complex64, because double"
    with pytest.raises(NsoptError, match=message):
        trace(parts.Complex().double(), torch.randn(2, 3, 32, 32).double())


@layers(a=nn.Linear(6, 16), b=nn.Linear(16, 16), head=nn.Linear(16, 5))
def SharedBias(self: Any, x: Tensor) -> Any:
    """T5's attention across: blocks of one width, because one tensor of zeros is added in each."""
    x = self.a(x)
    bias = torch.zeros(1, x.shape[1])
    return self.head((self.b((x + bias).relu()) + bias).relu())


def test_what_meets_one_filled_tensor_has_one_width() -> None:
    model, x = SharedBias(), torch.randn(2, 6)
    check_network_of(trace(model, x), model, x, [16], searches=False)


@layers(stem=nn.Conv2d(3, 16, 3), scores=nn.Conv2d(16, 3, 1))
def Levels(self: Any, x: Tensor) -> Any:
    """A detector's scores at two scales: flattened, joined and cut into parts again."""
    maps = [self.stem(x).relu(), self.stem(x[..., ::2]).relu()]
    flat = [self.scores(each).permute(0, 2, 3, 1).flatten(1) for each in maps]
    parts = torch.cat(flat, 1).split([each.shape[1] for each in flat], 1)
    return torch.cat([part.topk(2).values for part in parts], 1)


def test_flattened_channels_that_are_cut_into_unequal_parts_stay() -> None:
    model, x = Levels(), torch.randn(2, 3, 8, 8)
    arch = trace(model, x)
    assert "fixed: scores: is sorted" in arch.explain()
    check_network_of(arch, model, x, [16], searches=False)


@layers(a=nn.Linear(4, 12), b=nn.Linear(12, 3))
def Neighbours(self: Any, x: torch.Tensor, edges: torch.Tensor) -> Any:
    """A graph network, whose edges are a sparse matrix."""
    return torch.sparse.mm(edges, self.b(torch.sparse.mm(edges, self.a(x)).relu()))


def test_a_network_with_a_sparse_input_can_be_pruned() -> None:
    model, inputs = Neighbours(), (torch.randn(6, 4), torch.eye(6).to_sparse())
    arch = trace(model, inputs)
    assert arch.base_widths == (12,)
    # Of one of six nodes: one edge, which both of its products use.
    assert arch.cost("macs")([12]) == 12 * (4 + 3) + (12 + 3)
    assert arch.prune(model, [range(6)])(*inputs).shape == (6, 3)


def test_a_sparse_buffer_is_refused_in_one_line() -> None:
    model = nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 3))
    model[0].register_buffer("edges", torch.eye(6).to_sparse())
    with pytest.raises(NsoptError, match=r"^0\.edges is sparse, .* first, as in ") as caught:
        trace(model, torch.randn(6, 4))
    exec(str(caught.value).partition("as in ")[2], {"model": model})
    assert trace(model, torch.randn(6, 4)).base_widths == (12,)
