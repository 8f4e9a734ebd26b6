"""Which filters a prune step removes, by their number and by their price."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nsopt
from nsopt.data.images import ImageData
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.registry import get_architecture
from nsopt.pruning.rules import CostRule, make_rule
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import floor_widths
from nsopt.settings import Price
from tests.pruning.test_engine import prune

ARCH = get_architecture("vgg11")
NARROW = tuple(width // 8 for width in ARCH.base_widths)


def draw_scores(widths: tuple[int, ...], seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.exponential(size=width) for width in widths]


@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.tuples(*[st.integers(3, 60)] * len(ARCH.base_widths)),
    fraction=st.floats(0.3, 0.98),
)
def test_a_priced_step_prunes_the_least_valuable_filters_and_no_more_than_needed(
    seed: int, widths: tuple[int, ...], fraction: float
) -> None:
    cost = ARCH.cost("macs")
    rule = CostRule("MACs", cost, cost(widths), fraction, 10)
    importance = draw_scores(widths, seed)
    kept = rule.choose_kept(importance, 1)
    left = np.array([mask.sum() for mask in kept])
    assert cost(np.maximum(left, 1)) <= fraction * cost(widths) or left.sum() == 0
    price = cost.marginal(widths)
    worth = [scores / each for scores, each in zip(importance, price, strict=True)]
    taken = np.concatenate([w[~mask] for w, mask in zip(worth, kept, strict=True)])
    stayed = np.concatenate([w[mask] for w, mask in zip(worth, kept, strict=True)])
    assert stayed.size == 0 or taken.max() <= stayed.min()
    last = max(range(len(worth)), key=lambda g: worth[g][~kept[g]].max(initial=-1))
    one_less = left + (np.arange(len(left)) == last)
    assert cost(np.maximum(one_less, 1)) > fraction * cost(widths) or taken.size == 1


@given(
    per_step=st.integers(1, 500) | st.floats(0.001, 0.999),
    keep=st.floats(0.001, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_step_prunes_the_given_number_or_fraction(
    per_step: int | float, keep: float, seed: int
) -> None:
    settings = SearchSettings(filters_per_step=per_step, keep_fraction=keep)
    rule = make_rule(ARCH, NARROW, settings)
    importance = draw_scores(NARROW, seed)
    sizes = [
        sum(int(mask.sum()) for mask in rule.choose_kept(importance, step))
        for step in range(rule.steps + 2)
    ]
    total = sum(NARROW)
    assert sizes[0] == total
    assert sizes[-1] == sizes[-2] == int(keep * total)
    for before, after in pairwise(sizes[:-2]):
        wanted = per_step if isinstance(per_step, int) else max(1, int(per_step * before))
        assert before - after == wanted


@pytest.mark.parametrize("price", ["params", "macs"])
def test_priced_records_are_evenly_spaced_and_reach_the_final_size(
    price: Price, narrow: Architecture, digits: ImageData
) -> None:
    keep = 0.5  # with less, some processors prune a layer to its last filter
    trajectory = prune(narrow, digits, price=price, keep_fraction=keep)
    cost = narrow.cost(price)
    assert trajectory.tau.tolist() == cost(trajectory.widths).tolist()
    steps = np.diff(np.log(trajectory.tau))
    assert (steps < 0).all()
    assert steps.std() < 0.25 * -steps.mean()
    end = cost(floor_widths(keep, narrow.base_widths))
    assert trajectory.tau[-1] <= end < trajectory.tau[-2]  # one filter may cost a tenth


def test_all_prices_take_the_same_number_of_steps(narrow: Architecture) -> None:
    settings = SearchSettings(filters_per_step=16)
    rules = [
        make_rule(narrow, narrow.base_widths, settings.updated(price=price))
        for price in ("filters", "params", "macs")
    ]
    assert len({rule.steps for rule in rules}) == 1
    assert all(rule.measure_left(narrow.base_widths) == 1 for rule in rules)


def test_a_network_whose_size_hardly_changes_is_refused_before_any_training() -> None:
    """For instance if only the first of three layers can change."""
    layers = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 100), nn.Linear(100, 100))
    arch = nsopt.trace(layers, torch.rand(2, 4), "net", fixed=["1"])
    batches = [(torch.rand(2, 4), torch.rand(2, 100))]
    settings = SearchSettings(filters_per_step=0.1, device="cpu", precision="fp32")
    message = r"^pruning can remove at most 6\.7% of the params of net, and a law needs 10%: "

    def train(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a batch was trained on")

    with pytest.raises(NsoptError, match=message):
        nsopt.search(arch, nsopt.Task(batches, train), settings)
