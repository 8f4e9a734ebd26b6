"""Which filters a prune step removes, by their number and by their price."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt import (
    Architecture,
    ImageData,
    NsoptError,
    SearchSettings,
    architectures,
    get_architecture,
)
from nsopt.pruning.gates import Gate, ImportanceScores, make_gate
from nsopt.pruning.ranking import UnitRanking, rank_filters
from nsopt.pruning.rules import CostRule, make_rule
from nsopt.scaling.law import floor_widths
from nsopt.settings import Price
from tests.pruning.test_engine import prune
from tests.rescaled import with_base_widths

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
def test_steps_prune_a_number_or_fraction(per_step: int | float, keep: float, seed: int) -> None:
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


def choose_widths(arch: Architecture) -> list[int]:
    return [4 + i % 5 for i in range(len(arch.base_widths))]


def build_randomised(arch: Architecture) -> nn.Module:
    """Build a small float64 network whose BatchNorms are not at their initial values."""
    model = arch.build(choose_widths(arch)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def compute_loss(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (6,), generator=generator)
    return functional.cross_entropy(model(images), labels)


def compute_gate_gradients(arch: Architecture, model: nn.Module, seed: int) -> list[list[Tensor]]:
    """Return dE/dz of every gate of every group."""
    z: list[list[Tensor]] = []
    hooks = []
    for modules, width in zip(arch.design.find_gates(model), choose_widths(arch), strict=True):
        z.append([torch.ones(width, dtype=torch.float64, requires_grad=True) for _ in modules])
        for module, own in zip(modules, z[-1], strict=True):
            hooks.append(module.register_forward_hook(lambda _, __, y, z=own: y * z[:, None, None]))
    gradients = iter(torch.autograd.grad(compute_loss(model, seed), [own for g in z for own in g]))
    for hook in hooks:
        hook.remove()
    return [[next(gradients) for _ in group] for group in z]


def find_gates(arch: Architecture, model: nn.Module) -> list[list[Gate]]:
    return [[make_gate(module) for module in group] for group in arch.design.find_gates(model)]


@pytest.mark.parametrize("name", architectures())
def test_importance_equals_that_of_explicit_gates(name: str) -> None:
    arch = get_architecture(name)
    model = build_randomised(arch)
    explicit = [compute_gate_gradients(arch, model, seed) for seed in range(3)]
    gates = find_gates(arch, model)
    scores = ImportanceScores(gates)
    for seed, expected in enumerate(explicit):
        model.zero_grad()
        compute_loss(model, seed).backward()
        scores.accumulate()
        for group, gradients in zip(gates, expected, strict=True):
            for gate, gradient in zip(group, gradients, strict=True):
                torch.testing.assert_close(gate(), gradient, rtol=1e-10, atol=1e-12)
    for number, mean in enumerate(scores.mean()):
        squares = [sum(z.square() for z in batch[number]) for batch in explicit]
        torch.testing.assert_close(mean, sum(squares) / 3, rtol=1e-9, atol=1e-14)


def score_once() -> tuple[ImportanceScores, list[np.ndarray]]:
    """Return scores of one batch, and masks that keep every other channel."""
    arch = get_architecture("vgg11")
    model = build_randomised(arch)
    scores = ImportanceScores(find_gates(arch, model))
    compute_loss(model, 0).backward()
    scores.accumulate()
    return scores, [np.arange(len(mean)) % 2 == 0 for mean in scores.mean()]


def test_scores_start_anew_without_decay() -> None:
    scores, kept = score_once()
    once = scores.mean()
    scores.shrink(kept, decay=0)
    with pytest.raises(ValueError, match="no mini-batch"):
        scores.mean()
    scores.accumulate()
    for before, after in zip(once, scores.mean(), strict=True):
        torch.testing.assert_close(after, before)


def test_earlier_batches_count_less_with_decay() -> None:
    scores, _ = score_once()
    everything = [np.ones(len(mean), dtype=np.bool_) for mean in scores.mean()]
    for batches, decay in ((3, 0.5), (1, 0.5)):  # the same batch: a mean over any is its score
        for _ in range(batches):
            scores.accumulate()
        before = scores.mean()
        scores.shrink(everything, decay)
        for one, other in zip(before, scores.mean(), strict=True):
            torch.testing.assert_close(one, other)
    assert scores.state()["batches"] == ((1 + 3) * 0.5 + 1) * 0.5


def test_kept_channels_keep_their_scores_with_decay() -> None:
    scores, kept = score_once()
    once = scores.mean()
    scores.shrink(kept, decay=0.5)
    for before, after, mask in zip(once, scores.mean(), kept, strict=True):
        torch.testing.assert_close(after, before[torch.from_numpy(mask)])


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
    kept = ranking.pick_strongest(tuple(widths))[0]
    assert kept.tolist() == list(range(1, narrow.base_widths[0]))


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.1])
def test_no_larger_network_fits_the_budget(narrow: Architecture, fraction: float) -> None:
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


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_units_go_as_if_one_by_one_by_score_per_cost(narrow: Architecture, metric: str) -> None:
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


def test_weak_units_that_cannot_be_removed_end_no_ranking_per_cost(narrow: Architecture) -> None:
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
