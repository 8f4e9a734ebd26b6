"""Compression with the user's loader, loss and score."""

import html
import math
import shutil
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

import nsopt
from nsopt.errors import NsoptError
from nsopt.reports.tables import format_networks
from nsopt.session.presets import get_preset, override
from nsopt.session.workspace import Workspace
from nsopt.storage.opening import sqlite_url
from tests.conftest import EXACT
from tests.forked import Forked
from tests.networks import layers
from tests.pruning.test_own_batches import make_examples, make_loader, pixel_loss
from tests.study.test_comparison import Listener
from tests.tracing.awkward import UpAndDown

Done = tuple[nsopt.Compression, Path]
TRAINING = {**EXACT, "lr": 0.01, "least_steps": None, "distillation": None}
SETTINGS = override(get_preset("compress").settings, {"search": EXACT, "training": TRAINING})
SETTINGS = SETTINGS.updated(search=SETTINGS.search.updated(search_images=None))
BUDGETS = ["macs=60%", "params=50%"]
NAME = "upanddown-task-compress"


def right_pixels(model: nn.Module) -> float:
    """Return the percentage of pixels that a network gets right."""
    images, targets = make_examples(32, 1).tensors
    found = model(images)["out"][:, :, ::2, ::2].argmax(1)
    return 100 * float((found == targets).double().mean())


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = UpAndDown()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(10):
        for images, targets in make_loader(64):
            optimizer.zero_grad()
            pixel_loss(model(images), targets).backward()
            optimizer.step()
    return model.eval()


def run(model: nn.Module, **changes: Any) -> nsopt.Compression:
    task = {"train": make_loader(64), "loss": pixel_loss, "score": right_pixels}
    task |= {
        name: changes.pop(name)
        for name in ("train", "loss", "score", "test", "distance")
        if name in changes
    }
    options = {"budgets": BUDGETS, "epochs": 2, "settings": SETTINGS}
    return nsopt.compress(model, nsopt.Task(**task), **options | changes)


def run_briefly(model: nn.Module, out: Path) -> None:
    """Look often for what the other process does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nsopt.storage.engine.POLL_SECONDS", 0.05)
        patch.setattr("nsopt.storage.engine.DEAD_AFTER_LOOKS", 240)
        run(model, out=out, budgets=BUDGETS[:1], epochs=1)


@pytest.fixture(scope="module")
def kept(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Done:
    out = tmp_path_factory.mktemp("own")
    return run(trained, out=out), out


def test_every_budget_yields_a_working_network_within_it(kept: Done, trained: nn.Module) -> None:
    result, _ = kept
    dense = result.dense
    assert dense.score == right_pixels(trained) > 80
    assert result["macs=60%"].cost["macs"] <= 0.6 * dense.cost["macs"]
    assert result["params=50%"].cost["params"] <= 0.5 * dense.cost["params"]
    for small in result.networks.values():
        assert small.score == pytest.approx(right_pixels(small.model), abs=0.1)
        assert small.score > 70
        assert small.latency is not None
        assert all(own <= most for own, most in zip(small.widths, dense.widths, strict=True))
        assert small.agreement is not None


def test_reports_show_all_networks(kept: Done, tmp_path: Path) -> None:
    result, _ = kept
    page = result.report(tmp_path / "report")
    text = page.read_text()
    rows = format_networks(result.rows(), result.about.score_name)
    assert all(html.escape(cell) in text for row in rows for cell in row.values())
    assert "ms per batch of 100" in text
    assert "The widths that were compared" in text
    assert ">nan<" not in text
    table = pd.read_csv(page.with_name("outcomes.csv")).set_index(["method", "metric"])["score"]
    assert table["dense"].tolist() == [result.dense.score]
    for small, metric in zip(result.networks.values(), ("macs", "params"), strict=True):
        assert table[small.method, metric] == small.score


def test_changed_scores_give_no_old_results(kept: Done, trained: nn.Module) -> None:
    _, out = kept

    def changed(name: str, function: Any) -> Any:
        function.__qualname__ = name
        return function

    for name, function in (
        ("score", changed("right_pixels", lambda model: right_pixels(model) / 2)),
        ("loss", changed("pixel_loss", lambda outputs, targets: 2 * pixel_loss(outputs, targets))),
    ):
        with pytest.raises(NsoptError, match=rf"other settings \(data\.{name}: [^;]* there\): "):
            run(trained, out=out, budgets=BUDGETS[:1], **{name: function})


def test_what_cannot_be_compared_is_said_where_results_continue(tmp_path: Path) -> None:
    table = pd.DataFrame({"level": [1.0]})
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    inputs = list(torch.randn(64, 6).split(8))
    heard = []
    for version in (None, None, 1):
        task = nsopt.Task(inputs, score=lambda model: table["level"][0], version=version)
        out, hearer = tmp_path / str(version), Listener()
        for _ in range(1 if version is None else 2):
            nsopt.compress(model, task, ["params=60%"], epochs=0, out=out, progress=hearer)
        heard.append(any("DataFrame" in message for message in hearer.messages))
    assert heard == [False, True, False]


class Other(UpAndDown):
    """The same layers under another name."""


def test_models_in_one_folder_do_not_mix(kept: Done, trained: nn.Module, tmp_path: Path) -> None:
    first, out = kept
    shutil.copytree(out, tmp_path / "copy")
    other = Other()
    other.load_state_dict({key: 0.9 * part for key, part in trained.state_dict().items()})
    asked = {"out": tmp_path / "copy", "budgets": BUDGETS[:1]}
    run(other, **asked)
    again, before = run(trained, **asked)[BUDGETS[0]], first[BUDGETS[0]]
    assert again.score == before.score
    torch.testing.assert_close(again.model.state_dict(), before.model.state_dict())


@layers(first=nn.Conv2d(3, 16, 3), second=nn.Conv2d(3, 16, 3), norm=nn.BatchNorm2d(16))
@layers(last=nn.Conv2d(16, 2, 1))
def Sum(self: Any, one: Tensor, other: Tensor) -> Any:
    """A network of two inputs."""
    both = self.norm(self.first(one) + self.second(other)).relu()
    return self.last(both)


def test_a_network_of_several_inputs_is_compressed_in_milliseconds(tmp_path: Path) -> None:
    timed: list[int] = []

    def count(model: nn.Module, inputs: Any) -> float:
        timed.append(0)
        one, other = inputs
        assert len(one) == len(other) == 16
        return sum(parameter.numel() for parameter in model.parameters()) / 100

    images, targets = make_examples(64, 0).tensors
    inputs = [(part, part) for part in images.split(16)]
    asked: dict[str, Any] = {
        "out": tmp_path,
        "budgets": ["latency=60%"],
        "train": list(zip(inputs, targets[:, 1:-1, 1:-1].split(16), strict=True)),
        "loss": functional.cross_entropy,
        "score": lambda model: -float(model(images, images).std()),
        "settings": SETTINGS.updated(runtime=count),
    }
    torch.manual_seed(0)
    model = Sum()
    result = run(model, **asked)
    small = result["latency=60%"]
    assert small.model(*torch.rand(2, 1, 3, 16, 16)).shape == (1, 2, 14, 14)
    assert small.latency is not None
    assert 0.4 < small.latency / count(result.dense.model, torch.zeros(2, 16)) <= 0.6
    page = result.report(tmp_path / "report").read_text()
    assert "ms per batch of 16" in page
    before = len(timed)
    assert run(model, **asked)["latency=60%"].widths == small.widths
    assert len(timed) == before


def test_trainings_are_stored_as_optuna_studies(kept: Done) -> None:
    names = optuna.get_all_study_names(f"sqlite:///{kept[1] / 'study.db'}")
    kinds = {name.rpartition("/")[2] for name in names if name.startswith("upanddown-")}
    taken = {own.name for _, own in kept[0].results.candidates if own.trained}
    assert kinds == {"dense", *taken}


def test_two_processes_share_a_compression(trained: nn.Module, tmp_path: Path) -> None:
    with Forked(run_briefly, trained, tmp_path) as other:
        run_briefly(trained, tmp_path)
        assert other.wait() == 0, other.written()
    studies = Workspace(sqlite_url(tmp_path / "study.db"), tmp_path).studies(NAME)
    assert "dense" in studies
    for kind, study in studies.items():
        states = [trial.state.name for trial in study.trials]
        assert states.count("COMPLETE") == 1, f"a {kind} ran twice"


def test_a_compression_continues_in_its_precision(
    kept: Done, trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsopt.compute.device._multiplies_bf16", lambda device: True)
    automatic = {"search": {"precision": "auto"}, "training": {"precision": "auto"}}
    again = run(trained, out=kept[1], settings=override(SETTINGS, automatic))
    assert again["macs=60%"].score == kept[0]["macs=60%"].score


def test_a_compression_with_other_settings_is_not_continued(kept: Done, trained: nn.Module) -> None:
    with pytest.raises(NsoptError, match=r"was written by other settings \(training.epo"):
        run(trained, out=kept[1], epochs=3, budgets=["macs=40%"], progress=(hearer := Listener()))
    assert not hearer.messages, "before any work"


def test_tests_are_reported_and_distances_rank(trained: nn.Module, tmp_path: Path) -> None:
    compared = []

    def apart(outputs: Any, teacher: Any) -> Tensor:
        compared.append(len(outputs["out"]))
        return (outputs["out"] - teacher["out"]).square().flatten(1).mean(1)

    asked = {"test": lambda model: 1000.0, "distance": apart, "budgets": BUDGETS[:1], "epochs": 1}
    result = run(trained, **asked, out=tmp_path)
    small = result[BUDGETS[0]]
    assert set(compared) == {16}
    assert (result.dense.test_score, small.test_score) == (1000.0, 1000.0)
    assert small.agreement is not None
    assert small.agreement <= 100, "in percent"
    assert [row.test_score for row in result.rows()] == [1000.0, 1000.0]
    assert run(trained, **asked, out=tmp_path)[BUDGETS[0]].test_score == 1000.0
    asked["distance"] = lambda outputs, teacher: 1e9 * apart(outputs, teacher)
    with pytest.raises(NsoptError, match=r"distance= returned .*: divide it, so that it is about"):
        run(trained, **asked)


def test_what_a_trainer_changes_besides_tensors_earns_no_score(trained: nn.Module) -> None:
    def invert(model: nn.Module, *_: Any) -> nn.Module:
        model.register_forward_hook(lambda module, inputs, maps: {k: -v for k, v in maps.items()})
        return model

    found = run(trained, budgets=BUDGETS[:1], trainer=invert)
    small = found[BUDGETS[0]]
    assert small.score == right_pixels(small.model)


def test_a_trainer_replaces_the_fine_tuning(trained: nn.Module, tmp_path: Path) -> None:
    seen: list[nsopt.TrainerContext] = []

    def shift(model: nn.Module, task: nsopt.Task, context: nsopt.TrainerContext) -> nn.Module:
        seen.append(context)
        assert task.loss is pixel_loss
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        context.folder.rmdir()
        return model

    twice = SETTINGS.updated(seeds=2)
    asked = {"budgets": BUDGETS[:1], "out": tmp_path, "settings": twice}
    small = run(trained, **asked, trainer=shift)[BUDGETS[0]]
    assert {context.seed for context in seen} == {0, 1}
    assert all(context.epochs == 2 and context.teacher is not None for context in seen)
    teachers = [context.teacher for context in seen if context.teacher is not None]
    assert len(set(map(id, teachers))) == len(seen), "what a trainer does to one stays there"
    assert all(context.folder.name.endswith(".trainer") for context in seen)
    weights = dict(small.model.named_parameters())
    assert all(float(values.detach().mean()) > 0.5 for values in weights.values())
    count = len(seen)
    run(trained, **asked, trainer=shift)
    assert len(seen) == count, "finished trainings are not repeated"
    with pytest.raises(NsoptError, match="written by other settings"):
        run(trained, **asked)
    with pytest.raises(NsoptError, match="the trainer must return the network that it got"):
        run(trained, budgets=BUDGETS[:1], trainer=lambda *_: trained)
    wide = {"budgets": BUDGETS[:1], "trainer": lambda model, *_: model.double()}
    with pytest.raises(NsoptError, match="must return weights of the same dtype as those that"):
        run(trained, **wide)
    with pytest.raises(NsoptError, match="epochs=0 trains nothing: leave trainer= out"):
        run(trained, epochs=0, trainer=shift)
    with pytest.raises(NsoptError, match="trainer of a task must be a function, not 5"):
        run(trained, trainer=5)


def test_a_trainer_may_wrap_the_network_but_its_weights_are_finite(trained: nn.Module) -> None:
    def wrap(model: nn.Module, *_: Any) -> nn.Module:
        return AveragedModel(nn.DataParallel(model))

    def spoil(model: nn.Module, *_: Any) -> nn.Module:
        next(model.parameters()).data.fill_(math.nan)
        return model

    asked = {"budgets": BUDGETS[:1], "epochs": 1}
    assert type(run(trained, **asked, trainer=wrap)[BUDGETS[0]].model) is type(trained)
    with pytest.raises(NsoptError, match=r"60% succeeded \(the trainer returned .*infinite\)$"):
        run(trained, **asked, trainer=spoil)


@layers(first=nn.Linear(4, 16), last=nn.Linear(16, 2))
def Weighed(self: Any, x: Tensor, weight: Tensor) -> Any:
    """Takes two arguments."""
    return self.last(self.first(x).relu()) * weight


def test_networks_of_several_arguments_fit_inputs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("nsopt.session.subject.choose_compute")  # there is no step to time
    x, weight = (torch.rand(64, n, generator=torch.Generator().manual_seed(n)) for n in (4, 1))
    alone = list(zip(x.split(16), weight.split(16), strict=True))
    task = nsopt.Task([(inputs, None) for inputs in alone])
    small = nsopt.compress(Weighed(), task, ["macs=50%"], epochs=0)["macs=50%"]
    assert 0 < small.score < 100
    assert small.model(x, weight).shape == (64, 2)
