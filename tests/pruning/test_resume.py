"""Searches and trainings resume after any interruption, to the same numbers bit for bit."""

import copy
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt import Architecture, SearchSettings, Silent, TrainSettings, search, train
from nsopt.compute import checkpoint
from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import Compute, use_seed
from nsopt.data.images import ImageData, ImageSet
from nsopt.errors import NonFiniteLossError, NsoptError, ShortRecordError
from nsopt.models.registry import get_architecture
from nsopt.pruning.engine import ShrinkingNetwork, iterative_prune
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import supervise
from tests.conftest import BRIEF
from tests.rescaled import with_base_widths

SEARCH = SearchSettings(filters_per_step=20, iterations=2, batch_size=16, small_width=3, **BRIEF)
TRAINING = TrainSettings(epochs=2, batch_size=16, lr=0.05, device="cpu", precision="fp32")
FINE_TUNING: dict[str, Any] = {"optimizer": "adamw", "schedule": "linear", "warmup_epochs": 0.5}
FINE_TUNING |= {"distillation": 0.5, "averaging": 0.9}
SEARCH_BATCHES, TRAINING_STEPS = 30, 16
DEAR = Phase.explicit, Phase.generate  # a smaller example would take minutes to find


class EndedError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(autouse=True)
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)


def interrupt_after(writes: int, run: Callable[[], Any]) -> bool:
    """Interrupt a run after `writes` checkpoints; return whether it was still running."""
    save = Checkpoint.save_when_due
    left = [writes]

    def count(self: Checkpoint, state: Callable[[], dict]) -> None:
        save(self, state)
        left[0] -= 1
        if left[0] == 0:
            raise EndedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save_when_due", count)
        try:
            run()
        except EndedError:
            return True
    return False


def describe_search(result: Any) -> list[dict]:
    return [{**iteration.to_dict(), "seconds": 0} for iteration in result.iterations]


@pytest.fixture(scope="module")
def whole_search(narrow: Architecture, few: ImageData) -> list[dict]:
    return describe_search(search(narrow, few, SEARCH))


@settings(max_examples=2, phases=DEAR)
@given(first=st.integers(1, SEARCH_BATCHES), second=st.integers(1, SEARCH_BATCHES))
def test_a_resumed_search_equals_an_uninterrupted_one(
    narrow: Architecture,
    few: ImageData,
    whole_search: list[dict],
    tmp_path_factory: pytest.TempPathFactory,
    first: int,
    second: int,
) -> None:
    file = tmp_path_factory.mktemp("search") / "search.pt"

    def run() -> list[dict]:
        return describe_search(search(narrow, few, SEARCH, checkpoint=file))

    assert interrupt_after(first, run)
    assert file.exists()
    interrupt_after(second, run)
    assert run() == whole_search
    assert not file.exists()


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18", "resnet18-tied"])
def test_a_resumed_network_has_exactly_the_same_weights(few: ImageData, name: str) -> None:
    arch = get_architecture(name, image_size=16, in_channels=1)
    arch = with_base_widths(arch, tuple(max(4, w // 16) for w in arch.base_widths))
    each = SEARCH.updated(filters_per_step=sum(arch.base_widths) // 8)
    coarse = ImageSet(few.train.images[..., ::2, ::2], few.train.labels)
    splits = dataclasses.replace(few, train=coarse).split(0.1)
    compute = Compute(torch.device("cpu"), bf16=name != "mobilenetv2")  # slow in bf16 on many CPUs

    def states(resume: dict | None = None) -> list[bytes]:
        """Return the content of a checkpoint after every mini-batch."""
        seen: list[bytes] = []

        def keep(state: Callable[[], dict], pretrained: bool) -> None:
            file = io.BytesIO()
            torch.save(state(), file)
            seen.append(file.getvalue())

        how = each, compute, Silent(), resume
        iterative_prune(arch, arch.base_widths, Classification(splits), *how, after_batch=keep)
        return seen

    def loaded(content: bytes) -> dict:
        return torch.load(io.BytesIO(content), weights_only=True)

    whole = states()
    resumed = states(loaded(whole[14]))
    assert len(whole) > 20
    assert len(resumed) == len(whole) - 15
    torch.testing.assert_close(loaded(resumed[-1]), loaded(whole[-1]), rtol=0, atol=0)


class Tracking(nn.Module):
    """Divides by a mean of earlier batches, which no state holds."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.8 * self.mean + 0.2 * x.detach().abs().mean()
        return x / (self.mean + 0.1)


def test_a_search_continues_with_buffers_that_no_state_holds() -> None:
    model = nn.Sequential(nn.Linear(8, 16), Tracking(), nn.ReLU(), nn.Linear(16, 4))
    x, compute = torch.randn(16, 8), Compute(torch.device("cpu"), bf16=False)
    arch = nsopt.trace(model, x)
    task = nsopt.Task([(x, torch.arange(16) % 4)], functional.cross_entropy)
    supervision = supervise(task, SEARCH, compute)
    start = arch.build(arch.base_widths)
    start.get_buffer("1.mean").fill_(5)
    whole, resumed = (
        ShrinkingNetwork(arch, arch.base_widths, supervision, SEARCH, compute, start)
        for _ in range(2)
    )
    assert whole.model.get_buffer("1.mean") == 5
    whole.train_batch(lr=0.1, score=True)
    resumed.restore(copy.deepcopy(whole.state()))
    for network in (whole, resumed):
        network.train_batch(lr=0.1, score=True)
    states = [dict(network.model.state_dict()) for network in (whole, resumed)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.fixture(scope="module")
def uninterrupted() -> dict[tuple[str, bool], tuple]:
    """Epochs of uninterrupted trainings so far, by precision and whether they fine-tune."""
    return {}


@settings(max_examples=2, phases=DEAR)
@example(first=6, precision="fp32", tuned=False)  # after an epoch's last batch, before its end
@example(first=13, precision="fp32", tuned=True)
@given(
    first=st.integers(1, TRAINING_STEPS),
    precision=st.sampled_from(["fp32", "bf16"]),
    tuned=st.booleans(),
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    narrow: Architecture,
    few: ImageData,
    uninterrupted: dict[tuple[str, bool], tuple],
    tmp_path_factory: pytest.TempPathFactory,
    first: int,
    precision: str,
    tuned: bool,
) -> None:
    """tuned: with everything that fine-tuning adds."""
    file = tmp_path_factory.mktemp("training") / "training.pt"
    each = TRAINING.updated(precision=precision, **(FINE_TUNING if tuned else {}))
    with use_seed(0, torch.device("cpu")):
        teacher = narrow.build(narrow.base_widths)

    def run(path: Path | None = file) -> tuple:
        outcome = train(narrow, narrow.base_widths, few, each, checkpoint=path, teacher=teacher)
        return outcome.epochs

    assert interrupt_after(first, run) == (first < TRAINING_STEPS + 1)
    if (precision, tuned) not in uninterrupted:
        uninterrupted[precision, tuned] = run(None)
    assert run() == uninterrupted[precision, tuned]
    assert not file.exists()


def read_checkpoint(checkpoint: Path) -> dict:
    """Return the content of a checkpoint, below the line with its checksum."""
    _, _, content = checkpoint.read_bytes().partition(b"\n")
    return torch.load(io.BytesIO(content), weights_only=True)


def test_seconds_continue(narrow: Architecture, few: ImageData, tmp_path: Path) -> None:
    file = tmp_path / "training.pt"

    def run() -> float:
        return train(narrow, narrow.base_widths, few, TRAINING, checkpoint=file).seconds

    interrupt_after(14, run)
    spent = read_checkpoint(file)["state"]["seconds"]
    assert 0 < spent < run()


def test_a_changed_search_is_refused_and_named(
    narrow: Architecture, digits: ImageData, few: ImageData, tmp_path: Path
) -> None:
    file = tmp_path / "search.pt"
    interrupt_after(5, lambda: search(narrow, few, SEARCH, checkpoint=file))
    with pytest.raises(NsoptError, match=r"search.prune_lr: 0.02 now, 0.01 there"):
        search(narrow, few, SEARCH.updated(prune_lr=0.02), checkpoint=file)
    wider = with_base_widths(narrow, (9, *narrow.base_widths[1:]))
    with pytest.raises(NsoptError, match=r"widths: \[9, 8"):
        search(wider, few, SEARCH, checkpoint=file)
    more = dataclasses.replace(few, train=digits.train.take(range(120)))
    with pytest.raises(NsoptError, match=r"data.train: 108 now, 90 there"):
        search(narrow, more, SEARCH, checkpoint=file)
    assert file.exists()


def test_the_number_of_iterations_can_be_raised_later(
    narrow: Architecture, few: ImageData, whole_search: list[dict], tmp_path: Path
) -> None:
    file = tmp_path / "search.pt"
    one = SEARCH.updated(iterations=1)
    interrupt_after(5, lambda: search(narrow, few, one, checkpoint=file))
    assert describe_search(search(narrow, few, SEARCH, checkpoint=file)) == whole_search


def test_changed_trainings_are_named(narrow: Architecture, few: ImageData, tmp_path: Path) -> None:
    one, other = (narrow.build(narrow.base_widths) for _ in range(2))
    file, widths = tmp_path / "training.pt", narrow.base_widths

    def run(changed: nn.Module = one, **changes: Any) -> None:
        each = TRAINING.updated(**changes)
        train(narrow, widths, few, each, checkpoint=file, start=changed)

    interrupt_after(5, run)
    with pytest.raises(NsoptError, match=r"written by other settings \(start: "):
        run(other)
    with pytest.raises(NsoptError, match=r"training.lr: 0.06 now, 0.05 there"):
        run(lr=0.06)


def test_a_run_that_cannot_succeed_leaves_no_checkpoint(
    narrow: Architecture, few: ImageData, tmp_path: Path
) -> None:
    file = tmp_path / "run.pt"
    with pytest.raises(NonFiniteLossError):
        search(narrow, few, SEARCH.updated(lr=1e9), checkpoint=file)
    with pytest.raises(ShortRecordError):
        search(narrow, few, SEARCH.updated(filters_per_step=0.9), checkpoint=file)
    with pytest.raises(NonFiniteLossError):
        train(narrow, narrow.base_widths, few, TRAINING.updated(lr=1e9), checkpoint=file)
    assert not file.exists()
