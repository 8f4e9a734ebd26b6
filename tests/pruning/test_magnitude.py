from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.registry import get_architecture
from nsopt.pruning.ranking import UnitRanking, rank_filters
from tests.rescaled import with_base_widths


def test_the_weakest_filters_of_any_layer_are_pruned_first(narrow: Architecture) -> None:
    model = narrow.build(narrow.base_widths)
    with torch.no_grad():
        for layer, (weight,) in enumerate(narrow.design.find_filters(model)):
            weight.fill_(0.5 + layer)  # absolute size of a layer must not matter
            weight[0] *= 0.1 * (layer + 1)
    ranking = rank_filters(narrow, model)
    cost = narrow.cost("params")
    budget = cost(narrow.base_widths) - 1
    widths = np.array(ranking.widths_within(cost, budget))
    assert (np.array(narrow.base_widths) - widths).tolist() == [1, *[0] * 7]
    assert ranking.pick_strongest(tuple(widths))[0].tolist() == list(
        range(1, narrow.base_widths[0])
    )


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.1])
def test_a_pruned_network_fits_the_budget_and_no_larger_one_does(
    narrow: Architecture, fraction: float
) -> None:
    ranking = rank_filters(narrow, narrow.build(narrow.base_widths))
    cost = narrow.cost("params")
    budget = fraction * cost(narrow.base_widths)
    widths = ranking.widths_within(cost, budget)
    assert cost(widths) <= budget
    removed = torch.cat(
        [
            scores.sort().values[: len(scores) - width]
            for scores, width in zip(ranking.scores, widths, strict=True)
        ]
    )
    layer = next(i for i, n in enumerate(ranking.scores) if removed.max() in n)
    one_more = [w + (i == layer) for i, w in enumerate(widths)]
    assert cost(one_more) > budget


def test_an_infeasible_budget_raises_an_error(narrow: Architecture) -> None:
    ranking = rank_filters(narrow, narrow.build(narrow.base_widths))
    cost = narrow.cost("params")
    with pytest.raises(NsoptError, match=f"smallest feasible one is {cost([1] * 8)}"):
        ranking.widths_within(cost, 10)


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_units_of_low_score_for_what_they_save_are_removed_as_if_one_by_one(
    narrow: Architecture, metric: str
) -> None:
    torch.manual_seed(0)
    scores = tuple(torch.rand(width) ** 2 for width in narrow.base_widths)
    ranking, cost = UnitRanking(scores, tuple(range(8))), narrow.cost(metric)
    budget = 0.4 * cost(narrow.base_widths)
    widths = np.array(narrow.base_widths)
    while cost(widths) > budget:
        pairs = zip(scores, widths, strict=True)
        weakest = np.array([float(own.sort().values[-width]) for own, width in pairs])
        prices = weakest / cost.marginal(widths - 1)
        widths[np.where(widths > 1, prices, np.inf).argmin()] -= 1
    found = np.array(ranking.widths_per_cost(cost, budget))
    assert 0.95 * budget < cost(found) <= budget
    assert (np.abs(found - widths) <= 1).all()
    assert (found != ranking.widths_within(cost, budget)).any()
    with pytest.raises(NsoptError, match=f"smallest feasible one is {cost([1] * 8):,}"):
        ranking.widths_per_cost(cost, 10)


def test_weak_units_that_cannot_be_removed_end_no_ranking_per_cost(
    narrow: Architecture,
) -> None:
    torch.manual_seed(0)
    widths = (1, 1, 1, 8, 8, 8, 8, 8)
    scores = tuple(torch.rand(width) * (1e-9 if width == 1 else 1) for width in widths)
    cost = narrow.cost("params")
    budget = 0.5 * cost(widths)
    found = UnitRanking(scores, tuple(range(8))).widths_per_cost(cost, budget)
    assert 0.8 * budget < cost(found) <= budget


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet18-tied", "resnet18-convcut"])
def test_a_pruned_network_computes_like_one_with_the_pruned_channels_at_zero(name: str) -> None:
    """Channels that are added together are pruned together, so shortcuts keep their weights."""
    arch = get_architecture(name)
    arch = with_base_widths(arch, tuple(max(4, w // 8) for w in arch.base_widths))
    torch.manual_seed(0)
    model = arch.build(arch.base_widths).double().eval()
    ranking = rank_filters(arch, model)
    widths = ranking.widths_within(arch.cost("params"), 0.8 * arch.cost("params")(arch.base_widths))
    assert widths != arch.base_widths
    kept = ranking.pick_strongest(widths)
    smaller = arch.inherit(model.float(), kept, widths).double().eval()
    with torch.no_grad():
        for gates, left in zip(arch.design.find_gates(model.double()), kept, strict=True):
            for gate in gates:
                gate.register_forward_hook(only(left))
    x = torch.randn(4, *arch.input_shape, dtype=torch.float64)
    torch.testing.assert_close(smaller(x), model(x))


def only(left: torch.Tensor) -> Callable[..., torch.Tensor]:
    def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(output.shape[1], dtype=output.dtype)
        mask[left] = 1
        return output * mask[:, None, None]

    return hook
