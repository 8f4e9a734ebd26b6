import numpy as np
import pytest
import torch

from nsopt import Architecture, ImageData, PowerLaw, Silent, TrainSettings, solve_widths, train
from nsopt.compute.device import resolve_compute
from nsopt.errors import NonFiniteLossError, NsoptError, ShortRecordError
from nsopt.models.registry import get_architecture
from nsopt.pruning.engine import PruneSchedule, ShrinkingNetwork, iterative_prune
from nsopt.pruning.search import SearchResult, search
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.record import Iteration, PruneRecord, Trajectory
from nsopt.tasks.classification import Classification
from nsopt.training.step import batch_loss
from tests.conftest import BRIEF, EXACT
from tests.rescaled import with_base_widths

CPU = resolve_compute("cpu", "fp32")
SHORT = SearchSettings(filters_per_step=16, iterations=2, batch_size=32, small_width=3, **BRIEF)


def prune(arch: Architecture, data: ImageData, **changes: object) -> Trajectory:
    settings = SHORT.updated(**changes)
    images = Classification(data.split(settings.val_fraction))
    return iterative_prune(arch, arch.base_widths, images, settings, CPU, Silent())


def test_every_step_prunes_as_asked(narrow: Architecture, digits: ImageData) -> None:
    trajectory = prune(narrow, digits, keep_fraction=0.6)
    widths, built = trajectory.widths, [narrow.build(own) for own in trajectory.widths[::4]]
    filters = widths.sum(axis=1)
    total = sum(narrow.base_widths)
    assert tuple(widths[0]) == narrow.base_widths
    assert (np.diff(widths, axis=0) <= 0).all()
    assert (-np.diff(filters)[:-1] == 16).all()
    assert filters[-1] == int(0.6 * total)
    sizes = [sum(p.numel() for p in model.parameters()) for model in built]
    assert trajectory.tau[::4].tolist() == sizes


@pytest.mark.parametrize(("per_epoch", "every"), [(2, 1), (32, 4), (71, 10), (500, 10)])
def test_pruning_that_follows_its_data_takes_about_ten_epochs(per_epoch: int, every: int) -> None:
    settings = SearchSettings(prune_every=None, pretrain_epochs=0)
    schedule = PruneSchedule(65, per_epoch, settings)
    assert (schedule.every, schedule.batches) == (every, 65 * every)
    assert schedule.count_steps(3 * every) == 3


def test_pruning_ends_before_a_layer_is_empty(narrow: Architecture, digits: ImageData) -> None:
    trajectory = prune(narrow, digits, keep_fraction=0.001, filters_per_step=9)
    assert trajectory.widths.min() >= 1


def test_a_record_begins_when_every_layer_has_lost_a_filter() -> None:
    widths = np.array([[5, 5], [4, 5], [3, 5], [3, 4], [2, 3]])
    record = Trajectory(widths, widths.sum(axis=1)).record()
    assert record.widths.tolist() == [[3, 4], [2, 3]]
    assert record.tau.tolist() == [7, 5]


def test_each_layer_is_fitted_on_its_own_rows_if_the_published_rule_leaves_too_few() -> None:
    """One layer is never pruned, one soon has a single filter, one is pruned in the last steps."""
    tau = np.geomspace(8000, 1000, 13).round()
    steep = np.maximum(1, np.floor(40 * (tau / 8000) ** 2))
    late = np.where(tau < 1500, 11, 12)
    even = np.floor(100 * (tau / 8000) ** 0.5)
    widths = np.column_stack([np.full(13, 7), steep, late, even]).astype(np.int64)
    record = Trajectory(widths, tau.astype(np.int64)).record()
    assert record.by_layer
    assert len(record.tau) == 13
    law = record.law()
    assert (law.alpha[0], law.beta[0]) == (7, 0)
    assert law.beta[1:] == pytest.approx([2, 0.1, 0.5], rel=0.3)
    last = int(np.flatnonzero(steep == 1)[0]) + 1
    alone = PowerLaw.fit(widths[1:last, 1:2], tau[1:last])
    assert (law.alpha[1], law.beta[1]) == (alone.alpha[0], alone.beta[0])


def test_each_layer_is_fitted_on_its_own_rows_if_the_published_ones_are_of_tiny_networks() -> None:
    """As in deep residual networks: a layer is whole when another has a single filter."""
    tau = np.geomspace(8000, 100, 30).round().astype(np.int64)
    early = np.maximum(1, 16 * tau // 8000)
    late = np.where(np.arange(30) < 20, 64, 63)
    widths = np.column_stack([early, late])
    assert ((widths < widths[0]).all(axis=1)).sum() == 10
    record = Trajectory(widths, tau).record()
    assert record.by_layer
    assert record.law().beta[0] == pytest.approx(1, abs=0.2)


def test_a_record_with_enough_rows_is_fitted_as_published() -> None:
    tau = np.geomspace(8000, 1000, 10).round().astype(np.int64)
    widths = np.floor(np.array([20, 30]) * (tau[:, None] / 8000) ** 0.5).astype(np.int64)
    record = Trajectory(widths, tau).record()
    assert not record.by_layer
    assert record.tau.tolist() == tau[1:].tolist()
    assert record.law().to_dict() == PowerLaw.fit(widths[1:], tau[1:]).to_dict()


def test_pruning_continues_until_the_record_gives_a_law(digits: ImageData) -> None:
    """A layer of two filters loses one of them at once, or none."""
    arch = get_architecture("vgg11", in_channels=1)
    arch = with_base_widths(arch, (2, 40, 2, 40, 2, 40, 2, 40))
    trajectory = prune(arch, digits, filters_per_step=12, keep_fraction=0.1)
    assert trajectory.widths.min() == 1
    assert trajectory.record().by_layer
    law = trajectory.record().law()
    assert np.isfinite(law.alpha).all()
    assert (law.beta >= 0).all()


def test_the_half_pruned_configuration_is_the_first_with_half_the_filters() -> None:
    trajectory = Trajectory(np.array([[6, 4], [4, 3], [3, 2], [1, 1]]), np.arange(4))
    assert trajectory.at_fraction(0.5) == (3, 2)
    assert trajectory.at_fraction(0.7, channels_per_unit=[8, 1]) == (4, 3)
    with pytest.raises(NsoptError, match="pruning stopped with 20% of the filters left"):
        trajectory.at_fraction(0.1)


def test_records_of_fewer_than_six_rows_have_no_law() -> None:
    widths = np.arange(5, 0, -1)[:, None] * np.array([[1, 2]])
    with pytest.raises(ShortRecordError, match="5 rows and a law needs 6: prune in smaller steps"):
        PruneRecord(widths, widths.sum(axis=1)).law()


def test_a_non_finite_loss_ends_the_search(narrow: Architecture, digits: ImageData) -> None:
    with pytest.raises(NonFiniteLossError, match="during the search"):
        prune(narrow, digits, lr=1e9)


def are_equal(one: Iteration, two: Iteration) -> bool:
    return {**one.to_dict(), "seconds": 0} == {**two.to_dict(), "seconds": 0}


def test_search_images_limits_the_images(narrow: Architecture, digits: ImageData) -> None:
    def record(images: int | None) -> list:
        settings = SHORT.updated(iterations=1, search_images=images)
        (iteration,) = search(narrow, digits, settings).iterations
        return iteration.trajectory.widths.tolist()

    assert record(10**6) == record(None) != record(60)


@pytest.fixture(scope="module")
def whole(narrow: Architecture, digits: ImageData) -> SearchResult:
    return search(narrow, digits, SHORT)


def test_descent_rescales_to_the_original_size(narrow: Architecture, whole: SearchResult) -> None:
    first, second = whole.iterations
    params = narrow.cost("params")
    original = params(narrow.base_widths)
    assert first.start_widths == narrow.base_widths
    assert tuple(solve_widths(first.law, params, original, warn=False).widths) == first.widths
    assert 0.95 * original < params(first.widths) <= original
    raised = tuple(w + 3 if w < 3 else w for w in first.widths)
    assert second.start_widths == raised
    assert whole.law is second.law
    assert (first.law.beta > 0).all()


def test_descent_ends_when_widths_stop_changing(narrow: Architecture, digits: ImageData) -> None:
    settings = SHORT.updated(iterations=9, convergence=1e9)
    assert len(search(narrow, digits, settings).iterations) == 1


def test_scores_use_the_weights_before_the_step(narrow: Architecture, digits: ImageData) -> None:
    """After a large step the weights are very different."""
    how = narrow.base_widths, Classification(digits.split(0.1)), SHORT, CPU
    network, reference = (ShrinkingNetwork(narrow, *how) for _ in range(2))
    reference.model.load_state_dict(network.model.state_dict())
    network.train_batch(lr=10.0, score=True)
    images, labels = reference._data.next()
    batch_loss(reference.model, images, labels, CPU).backward()
    reference.scores.accumulate()
    for score, expected in zip(network.scores.mean(), reference.scores.mean(), strict=True):
        torch.testing.assert_close(score, expected, rtol=0, atol=0)


def test_a_search_can_start_from_a_trained_network(narrow: Architecture, digits: ImageData) -> None:
    settings = SHORT.updated(iterations=1)
    two_epochs = TrainSettings(epochs=2, batch_size=64, lr=0.05, **EXACT)
    trained = train(narrow, narrow.base_widths, digits, two_epochs).model
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    first = search(narrow, digits, settings, start=trained).iterations[0]
    again = search(narrow, digits, settings.updated(pretrain_epochs=9), start=trained)
    assert are_equal(again.iterations[0], first)  # pretrain_epochs has no effect
    assert not are_equal(search(narrow, digits, settings).iterations[0], first)
    torch.testing.assert_close(dict(trained.state_dict()), before, rtol=0, atol=0)
    other = narrow.build([width + 1 for width in narrow.base_widths])
    with pytest.raises(NsoptError, match="start is not a network of these widths: size mismatch"):
        search(narrow, digits, settings, start=other)
