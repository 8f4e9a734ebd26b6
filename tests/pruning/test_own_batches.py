"""Searches with the user's loader and loss."""

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
)

import nsopt
from nsopt.compute import checkpoint
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.tasks.batches import LoaderBatches
from tests.conftest import BRIEF, REPOSITORY
from tests.networks import layers
from tests.tracing.awkward import UpAndDown

SETTINGS = nsopt.SearchSettings(iterations=1, filters_per_step=4, lr=0.01, **BRIEF)
SETTINGS = SETTINGS.updated(prune_every=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def segmentation() -> Architecture:
    torch.manual_seed(0)
    return nsopt.trace(UpAndDown(), torch.randn(2, 3, 16, 16))


def make_examples(count: int = 48, seed: int = 0) -> TensorDataset:
    """Make random images; their targets are the pixels whose first channel is bright."""
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(images, (images[:, 0] > 0.5).long())


def make_loader(count: int = 48) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(make_examples(count), batch_size=16, shuffle=True)


def pixel_loss(outputs: Any, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["out"][:, :, ::2, ::2], targets)


def run_search(arch: Architecture, loss: Any = pixel_loss, **more: Any) -> dict[str, Any]:
    result = nsopt.search(arch, nsopt.Task(make_loader(), loss), SETTINGS, **more)
    (iteration,) = result.iterations
    return {**iteration.to_dict(), "seconds": 0}


def test_a_network_that_returns_a_dictionary_can_be_searched(segmentation: Architecture) -> None:
    law = nsopt.search(segmentation, nsopt.Task(make_loader(), pixel_loss), SETTINGS).law
    fit = nsopt.solve_widths(law, segmentation.cost("params"), 2000, warn=False)
    model = segmentation.build(fit.widths)
    assert sum(p.numel() for p in model.parameters()) == fit.cost <= 2000
    assert model(torch.randn(2, 3, 16, 16))["out"].shape == (2, 2, 32, 32)


def test_a_shuffled_loader_depends_on_the_seed_alone(segmentation: Architecture) -> None:
    torch.manual_seed(1)
    one = run_search(segmentation)
    torch.manual_seed(2)
    assert run_search(segmentation) == one
    before = torch.get_rng_state()
    run_search(segmentation)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("in_sampler", [False, True])
def test_a_generator_of_the_loader_or_its_sampler_is_seeded_too(in_sampler: bool) -> None:
    own, examples = torch.Generator().manual_seed(5), make_examples()
    if in_sampler:
        loader = DataLoader(examples, 16, sampler=RandomSampler(examples, generator=own))
    else:
        loader = DataLoader(examples, 16, shuffle=True, generator=own)
    first = LoaderBatches(loader, 0, CPU)
    expected = [first.next()[0] for _ in range(2)]
    second = LoaderBatches(loader, 0, CPU)
    assert torch.equal(second.next()[0], expected[0])
    second.restore(second.state())
    outside = own.get_state()
    others = [LoaderBatches(loader, seed, CPU) for seed in (1, 2)]  # their draws are their own
    assert torch.equal(second.next()[0], expected[1])
    assert not torch.equal(others[0].next()[0], others[1].next()[0])
    assert torch.equal(own.get_state(), outside)


class Noisy(Dataset[Tensor]):
    """Draws from NumPy and from Python, as libraries of augmentation do."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> Tensor:
        return torch.tensor([np.random.rand(), random.random()])


def test_random_numbers_of_numpy_and_python_follow_from_the_seed() -> None:
    loader = DataLoader(Noisy(), 2)
    before = repr(np.random.get_state()), random.getstate()
    first, second, other = (LoaderBatches(loader, seed, CPU) for seed in (0, 0, 1))
    batches = [first.next()[0] for _ in range(4)]
    assert len({batch.sum().item() for batch in batches}) == 4, "epochs differ"
    for _ in range(3):
        second.next()
    second.restore(second.state())
    assert torch.equal(second.next()[0], batches[3])
    assert not torch.equal(other.next()[0], batches[0])
    assert (repr(np.random.get_state()), random.getstate()) == before


def test_a_sampler_of_several_processes_shuffles_every_epoch() -> None:
    examples = make_examples()
    sampler = DistributedSampler(examples, num_replicas=1, rank=0)
    batches = LoaderBatches(DataLoader(examples, len(examples), sampler=sampler), 0, CPU)
    assert not torch.equal(batches.next()[0], batches.next()[0])
    assert sampler.epoch == 1, "epochs count from 0, as curricula expect"
    batches.restore(batches.state())
    assert sampler.epoch == 1


class StopError(Exception):
    pass


def test_a_search_with_a_loader_continues_where_it_was_interrupted(
    segmentation: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    whole, calls, file = run_search(segmentation), 0, tmp_path / "search.pt"

    def stops_in_the_eighth_batch(outputs: Any, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise StopError
        return pixel_loss(outputs, targets)

    with pytest.raises(StopError):
        run_search(segmentation, stops_in_the_eighth_batch, checkpoint=file)
    assert file.exists()
    assert run_search(segmentation, stops_in_the_eighth_batch, checkpoint=file) == whole


@layers(a=nn.Linear(4, 24), b=nn.Linear(6, 16), out=nn.Linear(40, 1))
def Sum(self: Any, x: Tensor, y: Tensor) -> Any:
    """Two inputs, one number for each example."""
    joined = torch.cat([self.a(x).relu(), self.b(y).relu()], 1)
    return self.out(joined)


def test_a_regression_with_several_inputs_can_be_searched() -> None:
    x, y = torch.randn(32, 4), torch.randn(32, 6)
    batches = [((x[i : i + 8], y[i : i + 8]), x[i : i + 8, :1]) for i in range(0, 32, 8)]
    arch = nsopt.trace(Sum(), (x[:2], y[:2]))
    task, few = nsopt.Task(batches, functional.mse_loss), SETTINGS.updated(filters_per_step=2)
    law = nsopt.search(arch, task, few).law
    assert arch.check_widths(nsopt.solve_widths(law, arch.cost("params"), 150, warn=False).widths)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter([BATCH])


class TooShort(list):
    def __len__(self) -> int:
        return 9


BATCH = (torch.randn(4, 3, 16, 16), torch.zeros(4, 16, 16, dtype=torch.int64))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([BATCH[0]], "training needs targets: give batches of inputs and targets"),
        (TooShort([BATCH] * 2), "says that it has 9 batches, but ends after 2"),
        (DataLoader(Stream(), 2), "a DataLoader of a dataset with a length"),
    ],
)
def test_an_invalid_loader_raises_an_error(
    segmentation: Architecture, own: Any, message: str
) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.search(segmentation, nsopt.Task(own, pixel_loss), SETTINGS)


def test_search_images_is_refused_with_a_loader(segmentation: Architecture) -> None:
    some = SETTINGS.updated(search_images=10)
    with pytest.raises(NsoptError, match="search_images chooses images with labels"):
        nsopt.search(segmentation, nsopt.Task([BATCH], pixel_loss), some)


class Counted(list):
    starts = 0

    def __iter__(self) -> Iterator[Any]:
        self.starts += 1
        return super().__iter__()


def test_a_loader_starts_with_the_first_batch_and_not_to_be_counted() -> None:
    loader = Counted([BATCH, BATCH])
    batches = LoaderBatches(loader, 0, CPU)
    assert (batches.per_epoch, batches.state()["position"], loader.starts) == (2, 0, 0)
    for starts in (1, 1, 2, 2, 3):
        batches.next()
        assert loader.starts == starts


def test_batches_continue_from_a_state_before_the_first_one() -> None:
    first, second = (LoaderBatches(make_loader(), seed, CPU) for seed in (0, 1))
    second.restore(first.state())
    for _ in range(first.per_epoch + 1):
        assert torch.equal(first.next()[0], second.next()[0])


@pytest.mark.filterwarnings("ignore:.*nsopt extrapolates the law there")  # after few steps
def test_the_denoising_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a search of few steps."""
    whole, few = nsopt.SearchSettings, {"prune_every": 1, "filters_per_step": 16}
    monkeypatch.setattr(nsopt, "SearchSettings", lambda **own: whole(**own | few))
    path = REPOSITORY / "studies" / "denoising" / "denoising.py"
    spec = importlib.util.spec_from_file_location("denoising", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    study = example.main(epochs=1, ratios=(0.25,), images=32)
    assert [trial.user_attrs["family"] for trial in study.trials] == ["law", "uniform"]
    assert all(0 < trial.value < 1 for trial in study.trials)
