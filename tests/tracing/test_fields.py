"""Networks of other fields can be traced, resized, searched and pruned."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import nsopt
from nsopt import Architecture, NsoptError, trace
from nsopt.errors import NoWidthsError
from nsopt.pruning.ranking import rank_filters
from nsopt.pruning.shrinking import ShrinkingModel
from tests.networks import layers
from tests.tracing import fields
from tests.tracing.checks import (
    SEARCH,
    Inputs,
    check_building,
    check_costs,
    check_network_of,
    check_search,
    distance_from_one,
    trace_unchanged,
)

NETWORKS: dict[Callable[[], nn.Module], tuple[Any, list[int]]] = {  # inputs, widths
    fields.Viewed: (torch.randn(2, 3, 32, 32), [6, 16, 24]),
    fields.Volumes: (torch.randn(2, 1, 6, 6, 6), [8, 16, 8]),
    fields.Text: (torch.randint(50, (2, 12)), [16, 8, 8]),
    fields.Graph: ((torch.randn(2, 5, 6), torch.rand(2, 5, 5)), [16, 12]),
    fields.Messages: (torch.randn(2, 5, 6), [16, 12]),
    fields.Matrices: (torch.randn(2, 5, 6), [16, 8, 12]),
    fields.Unfolded: (torch.randn(2, 3, 9, 9), [8, 12]),
    fields.Diagonal: (torch.randn(2, 12, 2), [8, 8]),
    fields.FastWeights: (torch.randn(2, 3, 5), [8, 12]),
    fields.Stacked: (torch.randn(2, 3, 5), [12]),
    fields.Warped: (torch.randn(2, 3, 9, 9), [8, 12]),
    fields.Spectral: (torch.randn(2, 3, 9, 9), [8, 12]),
    fields.Dynamic: (torch.randn(2, 3, 9, 9), [12, 8]),
    fields.Normed: (torch.randn(2, 3, 9, 9), [12, 8]),
    fields.Blurred: (torch.randn(2, 3, 11, 11), [12, 8]),
    fields.Frozen: (torch.randn(2, 3, 9, 9), [8, 24]),
    fields.Biased: (torch.randn(2, 5, 6), [12]),
    fields.FixedBias: (torch.randn(2, 5, 6), [12]),
    fields.Squeezed: (torch.randn(2, 3, 9, 9), [16, 16, 12]),
    fields.Mixed: (torch.randn(2, 3, 9, 9), [6, 16]),
    fields.PlainNorms: (torch.randn(2, 3, 9, 9), [16, 24, 4, 12]),
    fields.LikeConvNeXt: (torch.randn(2, 3, 9, 9), [16, 32]),
    fields.Rearranged: (torch.randn(2, 3, 10, 10), [4, 8, 16]),
}


def trace_network(kind: Callable[[], nn.Module]) -> tuple[Architecture, nn.Module, Inputs]:
    torch.manual_seed(0)
    model, (x, _) = kind(), NETWORKS[kind]
    return trace_unchanged(model, x), model, x


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
def test_a_network_can_be_traced_resized_searched_and_pruned(kind: Callable[[], nn.Module]) -> None:
    check_network_of(*trace_network(kind), NETWORKS[kind][1], searches=True)


def test_buffers_keep_the_values_of_the_remaining_units() -> None:
    arch, model, _ = trace_network(fields.Normed)
    smaller = arch.build([5, 8])
    assert torch.equal(smaller.get_buffer("norm.mean"), model.get_buffer("norm.mean")[:5])
    with pytest.raises(NsoptError, match=r"a cannot exceed 12: the buffer norm.* has different"):
        arch.build([13, 8])
    arch, model, _ = trace_network(fields.Blurred)
    wider = arch.build([20, 8]).get_buffer("filter")
    assert torch.equal(wider, model.get_buffer("filter")[:1].expand(20, -1, -1, -1))


def test_widths_without_trained_parameters_are_fixed() -> None:
    arch, _, _ = trace_network(fields.Frozen)
    assert arch.layer_names == ("backbone.2", "hidden")
    assert "fixed: backbone.0: no trainable parameters" in arch.explain()


def test_frozen_parameters_keep_the_values_of_the_remaining_units() -> None:
    arch, model, _ = trace_network(fields.Frozen)
    smaller = arch.build([5, 24])
    weight = model.get_parameter("backbone.2.weight")
    assert torch.equal(smaller.get_parameter("backbone.2.weight"), weight[:5])
    hidden = smaller.get_parameter("hidden.weight")
    assert not torch.equal(hidden, model.get_parameter("hidden.weight")[:, :5])
    message = r"backbone\.2 cannot exceed 8: the frozen parameter backbone\.2\..* has"
    with pytest.raises(NsoptError, match=message):
        arch.build([9, 24])
    model.requires_grad_(False)  # for inference: the trace does not change
    assert arch.build([8, 24]).get_parameter("hidden.weight").std() > 0
    arch = trace(model, torch.randn(2, 3, 9, 9))  # nothing is trained: all widths can change
    assert arch.layer_names == ("backbone.0", "backbone.2", "hidden")
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_trained_layer_beside_frozen_ones_may_be_unfrozen() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model.requires_grad_(False)[2].bias.requires_grad = True
    with pytest.raises(NsoptError, match=r"no trainable .*unless you call .*grad_\(True\)"):
        trace(model, torch.randn(2, 4))


@layers(a=nn.Linear(6, 12), norm=nn.BatchNorm1d(5), b=nn.Linear(12, 8), out=nn.Linear(8, 4))
@layers(codes=nn.Parameter(torch.rand(5, 12), requires_grad=False))
@layers(order=nn.Parameter(torch.arange(5), requires_grad=False))
@layers(none=nn.Parameter(torch.zeros(0, 12)))
def Coded(self: Any, x: torch.Tensor) -> Any:
    """Has fixed codes of places, a frozen norm, integers, and a parameter without values."""
    return self.out(self.b(self.norm(self.a(x)) + self.codes).relu().mean(1))


def test_new_networks_copy_what_is_not_trained() -> None:
    model = Coded()
    model.norm.requires_grad_(False).running_mean.fill_(3)
    built = trace(model, torch.randn(2, 5, 6)).build([7, 8])
    assert torch.equal(built.get_parameter("codes"), model.codes[:, :7])
    assert torch.equal(built.get_parameter("order"), model.order)
    assert (built.get_buffer("norm.running_mean") == 3).all()


def test_scores_in_a_graph_network_equal_those_of_explicit_factors() -> None:
    """dE/dz of a factor z = 1 behind a layer whose weight has the inputs first."""
    arch, _, (x, adjacency) = trace_network(fields.Graph)
    model = arch.build(arch.base_widths).double()
    x, adjacency = x.double(), adjacency.double()
    z = torch.ones(16, dtype=torch.float64, requires_grad=True)
    layer = model.get_submodule("a")
    hook = layer.register_forward_hook(lambda _, __, y: y * z)
    (expected,) = torch.autograd.grad(model(x, adjacency).square().mean(), z)
    hook.remove()
    ((gate,), _) = ShrinkingModel(arch, model).gates
    model(x, adjacency).square().mean().backward()
    torch.testing.assert_close(gate(), expected)


def test_units_that_cannot_be_removed_one_by_one_all_stay() -> None:
    arch, _, _ = trace_network(fields.Mixed)
    assert "a: 6 units of 2 channels, cannot be removed one by one" in arch.explain()
    model = arch.build(arch.base_widths)
    pruned = ShrinkingModel(arch, model)
    assert pruned.gates[0][0]().isposinf().all()
    pruned.shrink([np.arange(6), np.arange(4)], torch.optim.SGD(model.parameters()))
    assert model.get_parameter("a.weight").shape[0] == 12
    assert list(pruned.widths) == [2, 4]  # the same fraction of 6 as of 16


def test_a_network_without_removable_units_can_be_built_but_not_searched() -> None:
    model, x = fields.Mixed(), torch.randn(2, 3, 9, 9)
    arch = trace(model, x, fixed=["c"])
    assert arch.rigid == (True,)
    check_costs(arch, model, arch.base_widths, x)
    check_building(arch, x)
    with pytest.raises(NsoptError, match=r"pruning can remove at most 0\.0% of the params"):
        check_search(arch, x)


def test_no_function_proposes_widths_at_which_a_network_does_not_run() -> None:
    arch, model, _ = trace_network(fields.Squeezed)
    assert arch.narrowest == (1, 4, 2)  # powers of two
    with pytest.raises(NsoptError, match="the width of c cannot be below 2: with fewer units the"):
        arch.build([1, 4, 1])
    cost = arch.cost("params")
    law = nsopt.uniform_curve(arch.base_widths)
    smallest = cost(arch.narrowest)
    assert nsopt.solve_widths(law, cost, smallest).widths.tolist() == [1, 4, 2]
    by_threes = nsopt.solve_widths(law, cost, cost([3, 6, 3]), multiple_of=3)
    assert by_threes.widths.tolist() == [3, 6, 3]
    with pytest.raises(NoWidthsError, match=f"the smallest feasible one is {smallest}"):
        nsopt.solve_widths(law, cost, smallest - 1)
    flat = nsopt.PowerLaw(np.full(3, 1e-9), np.ones(3), np.ones(3))
    assert nsopt.solve_widths_sgd(flat, cost, smallest, max_steps=1).widths.tolist() == [1, 4, 2]
    assert rank_filters(arch, model).widths_within(cost, smallest) == (1, 4, 2)
    trial = optuna.trial.FixedTrial({f"width_{name}": 16 for name in arch.layer_names})
    nsopt.suggest_widths(trial, arch)
    assert [getattr(d, "low", 0) for d in trial.distributions.values()] == [1, 4, 2]


def test_a_search_keeps_the_smallest_widths_at_which_a_network_runs() -> None:
    arch, _, x = trace_network(fields.Squeezed)
    batches = [(x, torch.zeros(1))] * 2
    settings = SEARCH.updated(keep_fraction=0.01)
    result = nsopt.search(arch, nsopt.Task(batches, distance_from_one), settings)
    assert all((np.array(i.trajectory.widths) >= arch.narrowest).all() for i in result.iterations)
