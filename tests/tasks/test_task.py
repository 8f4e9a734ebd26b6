"""A user's task: its batches, loss, score and distance, and how networks are trained on it."""

from collections import UserDict
from collections.abc import Iterator
from dataclasses import make_dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import nsopt
from nsopt import NsoptError, Task
from nsopt.compression.compress import get_settings
from nsopt.compute import checkpoint
from nsopt.compute.device import resolve_compute
from nsopt.pruning.fitting.plan import Inputs
from nsopt.session.agreement import AgreementScore
from nsopt.tasks.agreement import class_divergence, measure_variances, relative_distance
from nsopt.tasks.batches import LoaderBatches, split_batch
from tests.conftest import BRIEF
from tests.networks import layers

SETTINGS = nsopt.TrainSettings(epochs=3, lr=0.05, momentum=0.9, device="cpu", precision="fp32")
CPU = resolve_compute("cpu", "fp32")


@layers(hidden=nn.Conv1d(1, 12, 8, 4), out=nn.Linear(12, 1))
def Tone(self: Any, sound: Tensor) -> Any:
    """Sound of 64 samples; the output is its loudness."""
    return self.out(self.hidden(sound[:, None]).square().mean(2))


NESTED = torch.nested.nested_tensor([torch.ones(64)], layout=torch.jagged)


def make_sounds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    loudness = torch.rand(count, 1, generator=random)
    return torch.randn(count, 64, generator=random) * loudness, loudness


@torch.no_grad()
def score(model: nn.Module) -> float:
    sounds, loudness = make_sounds(32, 1)
    return -float(functional.mse_loss(model(sounds), loudness))


def make_task(**changes: Any) -> Task:
    sounds, loudness = make_sounds(64, 0)
    batches = list(zip(sounds.split(16), loudness.split(16), strict=True))
    return Task(**({"train": batches, "loss": functional.mse_loss, "score": score} | changes))


@pytest.fixture(scope="module")
def arch() -> nsopt.Architecture:
    torch.manual_seed(0)
    return nsopt.trace(Tone(), make_sounds(2, 0)[0])


def test_any_task_trains_and_its_numbers_are_the_users(arch: nsopt.Architecture) -> None:
    outcome = nsopt.train(arch, [8], make_task(test=lambda model: 2 * score(model)), SETTINGS)
    assert outcome.losses[-1] < outcome.losses[0]
    assert outcome.score == score(outcome.model)
    assert outcome.test_score == 2 * outcome.score
    without = nsopt.train(arch, [8], make_task(), SETTINGS)
    assert without.score == outcome.score
    assert without.test_score is without.test_score_best_epoch is None
    with pytest.raises(NsoptError, match="the task has no test"):
        without.test_accuracy  # noqa: B018


class Centring(nn.Module):
    """A loss that remembers the mean of the outputs, has a parameter, and is hard to copy."""

    center: Tensor | None
    first: Tensor
    rate: Tensor
    warm: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", None)
        self.register_buffer("rate", torch.tensor(1))
        self.register_buffer("warm", torch.ones(()))
        self.scale = nn.Parameter(torch.ones(()))
        self.lock, self.last = Lock(), self.scale * 2

    def __len__(self) -> int:
        return 0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean = outputs.detach().mean(0)
        self.center = 0.2 * mean if self.center is None else self.center.lerp(mean, 0.2)
        if not hasattr(self, "first"):
            self.register_buffer("first", mean)
        self.rate, self.warm = self.rate * 0.9, None  # of integers; removed
        shift = 0.1 * self.center + self.rate * self.first
        self.last = functional.mse_loss(outputs * self.scale - shift, targets)
        return self.last


@pytest.mark.parametrize("command", ["train", "search"])
def test_what_a_loss_remembers_is_of_one_training(arch: nsopt.Architecture, command: str) -> None:
    loss, found = Centring(), []
    for _ in range(2):
        task = make_task(loss=loss)
        if command == "train":
            found.append(nsopt.train(arch, [8], task, SETTINGS).epochs)
        else:
            settings = nsopt.SearchSettings(**BRIEF, iterations=1).updated(prune_every=5)
            found.append(nsopt.search(arch, task, settings).law.alpha.tolist())
    assert found[0] == found[1]
    assert (loss.center, loss.scale.grad) == (None, None), "the user's own one stays"


@pytest.mark.parametrize(
    "begin",
    [
        lambda arch, task: nsopt.train(arch, [8], task, SETTINGS),
        nsopt.search,
        lambda arch, task: nsopt.compare(arch, task, ["uniform"], preset="smoke"),
    ],
    ids=["train", "search", "compare"],
)
def test_a_network_of_other_inputs_is_one_line(arch: nsopt.Architecture, begin: Any) -> None:
    stereo = Task([(torch.rand(4, 2, 64), torch.rand(4, 1))], functional.mse_loss, score)
    with pytest.raises(NsoptError, match=r"does not run on the inputs of .*: give nsopt"):
        begin(arch, stereo)


class Interrupted:
    """A loader whose file is gone."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        raise ValueError("the file is gone")


def test_an_interrupted_training_on_a_task_continues_with_the_same_numbers(
    arch: nsopt.Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    file, calls = tmp_path / "training.pt", 0

    def score_until_interrupted(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return score(model)

    teacher, loss = nsopt.train(arch, [12], make_task(), SETTINGS).model, Centring()
    settings = SETTINGS.updated(lr=0.002, distillation=0.5, averaging=0.9)
    options = {"settings": settings, "teacher": teacher}
    whole = nsopt.train(arch, [8], make_task(loss=loss), **options)
    stopped = make_task(loss=loss, score=score_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        nsopt.train(arch, [8], stopped, **options, checkpoint=file)
    assert file.exists()
    again = nsopt.train(arch, [8], stopped, **options, checkpoint=file)
    assert again.epochs == whole.epochs
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_another_version_or_other_data_is_another_training() -> None:
    own = make_task().fingerprint
    assert make_task().fingerprint == own
    other = list(zip(*(part.split(16) for part in make_sounds(64, 5)), strict=True))
    for changed in (
        make_task(version=2),
        make_task(train=other),
        make_task(train=other[:3]),
        make_task(loss=functional.l1_loss),
        make_task(example=make_sounds(8, 0)[0]),
    ):
        assert changed.fingerprint != own


def as_objects(labels: list[int]) -> Any:
    return np.array([object(), *labels], dtype=object)  # whose text differs in every process


@pytest.mark.parametrize("kind", [np.array, list, tuple, str, as_objects])
def test_labels_that_are_no_tensors_identify_a_task(kind: Any) -> None:
    def read(label: int) -> Any:
        batches = [(torch.ones(3, 4), kind([label] * 3))]
        return Task(batches, functional.mse_loss, score).fingerprint

    assert read(1) == read(1) != read(2)


class Noisy(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.randn(2), torch.zeros(1)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_that_stay_draw_the_same_in_every_training() -> None:
    loader = DataLoader(Noisy(), 4, num_workers=1, persistent_workers=True)
    epochs = [LoaderBatches(loader, 0, CPU.device) for _ in range(2)]
    first, again = ([batches.next()[0] for _ in range(4)] for batches in epochs)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[2])


def test_a_batch_is_a_pair_or_a_dictionary_with_labels() -> None:
    x, y = torch.zeros(2, 3), torch.ones(2)
    assert split_batch((x, y)) == (x, y)
    assert split_batch([[x, y], y]) == ((x, y), y)
    assert split_batch(({"ids": x}, y)) == ({"ids": x}, y)
    assert split_batch({"ids": x, "labels": y}) == ({"ids": x}, y)
    assert split_batch((UserDict(ids=x), y)) == ({"ids": x}, y)
    assert split_batch(x) == (x, None)
    assert split_batch({"ids": x}) == ({"ids": x}, None)
    assert split_batch([x]) == split_batch((x,)) == (x, None)
    for wrong in ((), (x, y, y), 5):
        with pytest.raises(NsoptError, match=r"a pair of inputs and .*, which collate_fn may"):
            split_batch(wrong)


ROWS = torch.zeros(8, 3)
UNUSABLE: list[tuple[Any, str]] = [
    (torch.utils.data.TensorDataset(ROWS, torch.arange(8)), "is a Dataset: give a DataLoader"),
    (torch.utils.data.TensorDataset(ROWS, ROWS[:, :1]), "is a Dataset: give a DataLoader"),
    ([(np.zeros((4, 3)), np.zeros(4))], r"hold no tensor: give tensors, .*collate_fn may"),
    (
        [{"sound": torch.zeros(4, 64), "label": torch.zeros(4)}],
        r"argument 'label': it gets all entries .* for 'labels'",
    ),
]


@pytest.mark.parametrize(("batches", "message"), UNUSABLE)
def test_other_batches_than_pairs_and_dictionaries_are_one_line(batches: Any, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(Tone(), nsopt.Task(batches, functional.cross_entropy).inputs)


@layers(table=nn.Embedding(7, 12), out=nn.Linear(12, 2))
def Keywords(self: Any, ids: Tensor, mask: Tensor) -> Any:
    return {"logits": self.out((self.table(ids) * mask[..., None]).mean(1))}


def test_networks_with_keyword_arguments_are_trained() -> None:
    ids = torch.randint(7, (8, 5), generator=torch.Generator().manual_seed(0))
    batch = {"ids": ids, "mask": torch.ones(8, 5), "labels": ids[:, 0] % 2}
    task = Task(
        [batch] * 4,
        lambda outputs, labels: functional.cross_entropy(outputs["logits"], labels),
        lambda model: float((model(ids, batch["mask"])["logits"].argmax(1) == ids[:, 0] % 2).sum()),
    )
    arch = nsopt.trace(Keywords(), tuple(task.inputs.values()))
    outcome = nsopt.train(arch, [6], task, SETTINGS.updated(epochs=8, lr=0.5))
    assert outcome.losses[-1] < outcome.losses[0]
    assert 0 <= outcome.score <= 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": iter([])}, "the loader must have a length and restart in every epoch"),
        ({"train": []}, "the loader has no batches"),
        ({"train": 5}, "the loader must have a length"),
        ({"train": torch.zeros(9, 3)}, r"the loader is a tensor: give a list .* as x.split\(64\)"),
        ({"loss": torch.nn.MSELoss}, r"must be a function: call the class, MSELoss\(\)"),
        ({"loss": 5}, "loss of a task must be a function, not 5"),
        ({"score": "accuracy"}, "score of a task must be a function, not 'accuracy'"),
        (
            {"loss": lambda outputs, targets, weight: outputs.mean()},
            r"loss of a task must take \(outputs, targets\), .*missing .* argument: 'weight'",
        ),
        ({"score": lambda: 1.0}, r"score of a task must take \(model\), and cannot: too many"),
        ({"name": "a/b"}, "name of a task must be a word without '/', not 'a/b'"),
        ({"score_name": ""}, "score_name of a task must be a word"),
        ({"version": (1, 2)}, r"version of a task must be text or a number, not \(1, 2\)"),
        ({"version": b"x"}, "version of a task must be text"),
    ],
)
def test_an_invalid_task_raises_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        make_task(**changes)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (make_task(score=None), r"training needs a score: nsopt.Task\(..., score=...\)"),
        (make_task(loss=None), r"training needs a loss: nsopt.Task\(..., loss=...\)"),
        (make_task(loss=lambda y, t: y.sum() * 1j), "the loss must be a tensor of one number"),
        (make_task(loss=lambda y, t: (y.mean(), y)), r"got tuple\): return the mean over the"),
        (make_task(loss=lambda y, t: (y - t) ** 2), r"got \(\d+, \d+\)\): return the mean"),
        (make_task(score=lambda model: "good"), "the score must be a finite number, not 'good'"),
        (make_task(score=lambda model: 10**400), "the score must be a finite number, not 1000"),
        (make_task(score=lambda model: 1j), "the score must be a finite number, not 1j"),
        (make_task(score=lambda model: torch.tensor(1 + 0j)), r"finite number, not tensor\(1"),
        (make_task(score=lambda model: np.complex64(1)), r"finite number, not np.complex64\(1"),
        (make_task(score=lambda model: torch.ones((), device="meta")), "not tensor.*meta"),
        (make_task(score=lambda model: torch.ones(2)), r"finite number, not tensor\(\[1"),
        (make_task(score=lambda model: NESTED), r"finite number, not NestedTensor\("),
        (make_task(loss=lambda y, t: y.mean().to("meta")), "the loss must be a tensor of one"),
        (make_task(loss=lambda y, t: y.mean()[None].to_sparse()), "the loss must be a tensor of"),
        (make_task(loss=lambda y, t: y.mean() * torch.nan), "of the first batch is nan, before"),
        (make_task(train=[(torch.rand(0, 64), torch.rand(0, 1))]), "a batch has no examples"),
        (Task(Interrupted(), functional.mse_loss, score), r"not run .* \(the file is gone\): "),
        (make_task(loss=nn.Sequential(nn.LazyLinear(2))), "has parameters without a size"),
        (5, "give an nsopt.Task or an nsopt.ImageData"),
    ],
)
def test_what_a_task_lacks_is_one_line(arch: nsopt.Architecture, task: Any, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.train(arch, [8], task, SETTINGS)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.rand(8, 64, device="meta"), "is on the meta device, without values: pass numbers"),
        (NESTED, "is nested: pass numbers"),
        (torch.rand(8, 64).to_mkldnn(), "is in the layout of MKL-DNN: pass numbers"),
        (torch.rand(0, 64), "a batch has no examples: leave out empty batches"),
    ],
    ids=["meta", "nested", "mkldnn", "empty"],
)
def test_no_numbers_are_one_line(arch: nsopt.Architecture, inputs: Tensor, message: str) -> None:
    task = Task([(inputs, torch.rand(8, 1))], functional.mse_loss, score)
    for run in (
        lambda: nsopt.trace(Tone(), inputs),
        lambda: nsopt.train(arch, [8], task, SETTINGS),
        lambda: nsopt.fit(arch.build([12]), [8], [inputs], arch),
        lambda: nsopt.compress(arch.build([12]), task, ["params=80%"], arch=arch),
    ):
        with pytest.raises(NsoptError, match=message):
            run()
    if inputs.is_meta:
        targets = Task([(torch.rand(8, 64), torch.rand(8, 1, device="meta"))])
        with pytest.raises(NsoptError, match="a target of the task is on the meta device"):
            _ = targets.fingerprint


def test_sparse_inputs_identify_a_task() -> None:
    eye = torch.eye(4)[None, None]
    found = [Task([eye.mul(value).to_sparse()]).fingerprint for value in (1.0, 1.0, 2.0)]
    assert found[0] == found[1] != found[2]


def test_a_frozen_network_is_named_as_the_reason(arch: nsopt.Architecture) -> None:
    frozen = arch.build([12]).requires_grad_(False)
    with pytest.raises(NsoptError, match="no weight of the network requires a gradient"):
        nsopt.train(arch, [12], make_task(), SETTINGS, start=frozen)


def test_what_epochs_of_0_ignore_is_said() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    calls: list[Any] = []
    task = Task(list(torch.randn(64, 6).split(8)), trainer=lambda *given: calls.append(given))
    for message, options in (
        ("trainer of the task is not called", {}),
        ("one seed is enough", {"settings": get_settings(False).updated(seeds=2)}),
    ):
        own = task if not options else replace(task, trainer=None)
        with pytest.warns(UserWarning, match=message):
            nsopt.compress(model, own, ["params=60%"], epochs=0, **options)
    assert not calls


def test_the_default_distance_is_relative_to_the_variance_of_all_floating_outputs() -> None:
    teacher = {"pitch": torch.tensor([[0.0], [2.0]]), "voiced": torch.tensor([1, 0])}
    student = {"pitch": torch.tensor([[1.0], [2.0]]), "voiced": torch.tensor([0, 0])}
    assert relative_distance(student, teacher).tolist() == [0.5, 0.0]
    named = [make_dataclass("Outputs", outputs)(**outputs) for outputs in (student, teacher)]
    assert relative_distance(*named).tolist() == [0.5, 0.0]
    scaled = [{**outputs, "pitch": 100 * outputs["pitch"]} for outputs in (student, teacher)]
    assert relative_distance(*scaled).tolist() == [0.5, 0.0]
    numbers = [outputs["pitch"].squeeze(1) for outputs in (student, teacher)]
    assert relative_distance(*numbers).tolist() == [0.5, 0.0]
    masked = [torch.cat([each, torch.tensor([-torch.inf])]) for each in numbers]
    assert relative_distance(*masked).tolist() == [0.5, 0.0, 0.0], "what is masked does not count"
    rows = [torch.stack([each, torch.full((2,), -torch.inf)], 1) for each in numbers]
    assert relative_distance(*rows).tolist() == [0.5, 0.0]
    assert measure_variances([teacher, {"pitch": torch.tensor([[torch.inf]])}]) == [2.0]
    kelvin = [torch.cat([300 + each[:, None], each[:, None]], 1) for each in numbers]
    assert relative_distance(*kelvin).tolist() == [0.5, 0.0], "places may have different means"
    anchors = torch.tensor([[1.0, 300.0]]).expand(2, 2)  # the same for every example
    assert relative_distance(anchors * 1.1, anchors).max() < 0.1
    assert relative_distance(anchors + torch.tensor([0.0, 200.0]), anchors).min() > 0.5
    both = [torch.cat([each, each[:1]]) for each in numbers], [numbers[0][:, None]] * 2
    assert [len(measure_variances(parts)) for parts in both] == [1, 1]
    with pytest.raises(NsoptError, match="no finite floating numbers"):
        relative_distance(torch.ones(2), torch.full((2,), torch.nan))
    with pytest.raises(NsoptError, match="give the task a distance"):
        relative_distance(torch.tensor([1]), torch.tensor([2]))


def test_classes_that_the_trained_network_excludes_add_nothing_to_the_divergence() -> None:
    teacher, student = torch.tensor([[1.0, 2.0, -torch.inf]]), torch.tensor([[2.0, 1.0, 0.0]])
    both = student.where(teacher.isfinite(), -torch.inf)
    for outputs, few in ((student, student), (both, both[:, :2])):
        alone = class_divergence(few[:, :2], teacher[:, :2])
        lost = few.log_softmax(1)[:, :2].logsumexp(1)  # the probability of the two classes
        assert class_divergence(outputs, teacher) == pytest.approx(alone - lost)


@layers(tone=Tone())
def Halving(self: Any, sound: Tensor) -> Any:
    """Writes into its input."""
    return self.tone(sound.mul_(0.5))


def test_a_network_that_writes_into_its_input_leaves_the_batches_of_the_user_alone() -> None:
    model, task = Halving().eval(), make_task(distance=relative_distance)
    before = [sounds.clone() for sounds, _ in task.train]
    arch = nsopt.trace(model, make_sounds(2, 0)[0])
    agreement = AgreementScore(model, Inputs(make_sounds(64, 0)[0]), task.distance)
    assert [agreement(model) for _ in range(2)] == [100, 100]
    settings = SETTINGS.updated(epochs=1, distillation=1.0, lr=1e-9)
    outcome = nsopt.train(arch, [12], task, settings, start=model, teacher=model)
    assert outcome.losses[0] == pytest.approx(0, abs=1e-6), "both see the same input"
    assert all(map(torch.equal, before, (sounds for sounds, _ in task.train)))


def test_distillation_takes_a_last_batch_of_one_example(arch: nsopt.Architecture) -> None:
    sounds, loudness = make_sounds(17, 0)
    batches = list(zip(sounds.split(16), loudness.double().split(16), strict=True))
    settings = SETTINGS.updated(distillation=0.5, lr=0.001)
    task = make_task(train=batches, loss=lambda y, t: (y.double() - t).square().mean())
    outcome = nsopt.train(arch, [8], task, settings, teacher=arch.build([12]))
    assert outcome.losses[-1] < 10


def test_networks_are_compared_by_the_distance_of_the_task(arch: nsopt.Architecture) -> None:
    trained = arch.build([12]).eval()
    inputs = Inputs(make_sounds(64, 0)[0])
    agreement = AgreementScore(trained, inputs, lambda y, t: (y - t).abs().sum(1))
    assert agreement(trained) == 100
    for wrong in (lambda y, t: 1.0, lambda y, t: (y - t).sum(), lambda y, t: y[:, None]):
        with pytest.raises(NsoptError, match="tensor of one number for each example"):
            AgreementScore(trained, inputs, wrong)(trained)
    other = arch.build([12]).eval()
    found = agreement.compare(other)
    apart = (other(inputs.batches[0]) - trained(inputs.batches[0])).abs().sum(1)
    torch.testing.assert_close(found.distances[: len(apart)], apart.detach())
    assert found.distances.shape == (64,)


@layers(tone=Tone())
def Losses(self: Any, sound: Tensor, loudness: Tensor) -> Any:
    """Its first output is the loss, as of transformers that get `labels`."""
    found = self.tone(sound)
    return functional.mse_loss(found, loudness), found


@layers(tone=Tone())
def Strict(self: Any, sound: Tensor, loudness: Tensor | None = None) -> Any:
    """Needs the targets in training mode."""
    if self.training and loudness is None:
        raise ValueError("give targets")
    return self.tone(sound)


def test_a_network_that_fails_in_training_mode_is_refused_before_it_trains() -> None:
    inputs = make_sounds(4, 0)
    alone, both = make_task(), make_task(train=[(inputs, inputs[1])] * 4, example=inputs[0])
    with pytest.warns(UserWarning, match="training"):
        arch = nsopt.trace(Strict(), alone.inputs)
    refused = pytest.raises(NsoptError, match=r"not run in training mode .*\(give targets\): give")
    with refused:
        nsopt.train(arch, [8], alone, SETTINGS)
    with refused:
        nsopt.search(arch, alone)
    with refused:
        nsopt.compress(Strict(), alone, ["macs=50%"], arch=arch, epochs=1)
    assert nsopt.train(arch, [8], both, SETTINGS).epochs


def test_a_loss_of_one_number_may_have_a_dimension(arch: nsopt.Architecture) -> None:
    losses = [
        nsopt.train(arch, [8], make_task(loss=loss), SETTINGS).losses
        for loss in (lambda y, t: (y - t).abs().mean(0), lambda y, t: (y - t).abs().mean())
    ]
    assert losses[0] == losses[1]


def test_a_network_may_compute_its_own_loss() -> None:
    sounds, loudness = make_sounds(64, 0)
    pairs = zip(sounds.split(16), loudness.split(16), strict=True)
    batches = [((sound, loud), loud) for sound, loud in pairs]

    def its_score(model: nn.Module) -> float:
        return -float(model(sounds, loudness)[0])

    task = Task(batches, lambda outputs, _: outputs[0], its_score)
    arch = nsopt.trace(Losses(), task.inputs)
    assert arch.num_classes == 1
    assert len(nsopt.train(arch, [6], task, SETTINGS).epochs) == 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(4, 8), r"missing 1 required.*several arguments are a tuple, and a batch is a"),
        ((torch.zeros(4, 8),) * 3, r"takes 3 positional.*for one argument write \(\[a, b\],\)"),
    ],
    ids=["few", "many"],
)
def test_wrong_numbers_of_arguments_say_how_to_write_them(inputs: Any, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(Losses(), inputs)
