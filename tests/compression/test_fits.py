"""Compression without training: inputs alone, at exact budgets."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt import Architecture, ImageData, NsoptError, TrainSettings, train
from nsopt.compression.budgets import Solver
from nsopt.compression.compress import get_settings
from nsopt.compression.fits import Fits
from nsopt.scaling.metric import MACS
from nsopt.session.agreement import AGREEMENT, AgreementScore, hold_out
from nsopt.session.presets import StudySettings, override
from nsopt.session.session import start_session
from nsopt.session.subject import Subject
from nsopt.storage.schema import FIT
from nsopt.storage.trials import Point
from tests.networks import layers
from tests.study.test_any_task import Pitch, make_sounds, make_task, right_pitches
from tests.study.test_comparison import Interrupting, Listener, make_workspace

BUDGETS = ["macs=70%", "macs=40%"]


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    model, task = Pitch(), make_task()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(10):
        for sounds, pitches in task.train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(sounds), pitches).backward()
            optimizer.step()
    return model.eval()


def exact(images: bool = False, **training: Any) -> StudySettings:
    """Return the settings of a compression, with the same precision on every processor."""
    parts = {"search": {"precision": "fp32"}, "training": {"precision": "fp32"} | training}
    return override(get_settings(images=images), parts)


def compress(model: nn.Module, task: nsopt.Task, **changes: Any) -> nsopt.Compression:
    asked: dict[str, Any] = {"budgets": BUDGETS, "epochs": 0, "progress": nsopt.Silent()}
    if task.loss is not None:
        asked["settings"] = exact()
    return nsopt.compress(model, task, **asked | changes)


@pytest.fixture(scope="module")
def curve(trained: nn.Module) -> nsopt.Compression:
    """Networks of 90 to 10 % of the MACs, also of `BUDGETS`, fitted without training."""
    return compress(trained, make_task(), budgets="curve")


def test_inputs_alone_are_enough(trained: nn.Module, tmp_path: Path) -> None:
    sounds = [make_sounds(16, seed)[0] for seed in range(12)]
    task, listener = nsopt.Task(sounds, name="sounds"), Listener()
    result = compress(trained, task, out=tmp_path, progress=listener)
    fitted = [text for text in listener.messages if re.search(r": fitted in \d+ s$", text)]
    assert len({text.split(":")[0] for text in fitted}) == len(fitted) == len(BUDGETS)
    for budget in BUDGETS:
        begin = f"{budget}: agreement of fitted widths: "
        (compared,) = (text for text in listener.messages if text.startswith(begin))
        found = [float(number) for number in re.findall(r" ([\d.]+) %", compared)]
        assert found == sorted(found, reverse=True)
        assert result[budget].agreement == pytest.approx(found[0], abs=0.05)
    assert result.dense.score == pytest.approx(100)
    whole = result.dense.cost["macs"]
    for small, share in zip(result.networks.values(), (0.7, 0.4), strict=True):
        assert 0.8 * share * whole < small.cost["macs"] <= share * whole
        assert right_pitches(small.model) >= right_pitches(trained) - 10
        assert small.score > 80
    first, second = (result[budget].score for budget in BUDGETS)
    assert second < first < 100
    assert result.about.score_name == AGREEMENT
    assert AGREEMENT in repr(result)
    assert [row.latency_ms for row in result.rows()] == [None] * 3, "nothing is timed"
    assert " ms " not in repr(result)
    page = result.report(tmp_path / "report")
    table = pd.read_csv(page.with_name("outcomes.csv"))
    assert set(table["method"]) <= {"dense", "uniform", "fit", "fit-halfway"}
    assert set(table["epochs"]) == {0}, "nothing was trained"
    again = compress(trained, task, out=tmp_path)
    assert [again[budget].score for budget in BUDGETS] == [first, second]


def test_outputs_are_compared_on_inputs_to_which_no_layer_was_fitted() -> None:
    batches = [(torch.full((16, 1), float(number)), None) for number in range(12)]
    compared, fitted = hold_out(batches)
    assert (len(compared), len(fitted)) == (2, 10)
    assert compared + fitted == batches
    small = [(inputs[:4], None) for inputs, _ in batches]
    assert [len(part) for part in hold_out(small)] == [4, 8], "at least 16 examples"
    few = batches[:1]
    assert hold_out(few) == (few, few), "too few to spare any"


def test_no_layer_is_fitted_to_inputs_that_are_compared(trained: nn.Module, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)  # no seed of nsopt's reaches it
    sounds = make_sounds(192, 0)[0]

    class Shuffled(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(sounds[numbers.permutation(192)].split(16))

    task = nsopt.Task(Shuffled(sounds.split(16)), name="sounds")
    arch = nsopt.trace(trained, sounds[:2])
    subject = Subject.of(arch, task, exact(epochs=0).updated(start=trained))
    session = start_session(subject, make_workspace(tmp_path), nsopt.Silent(), "cpu")
    fits, data = Fits(session), session.subject.data
    fitted = fits._inputs.batches
    assert isinstance(data, nsopt.Task)
    assert isinstance(data.score, AgreementScore)
    assert fits.compare == data.score.compare
    everything = torch.cat([*data.score._inputs.batches, *fitted])
    assert len(everything.unique(dim=0)) == 192


def test_inputs_are_enough_in_bf16(trained: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsopt.compute.device._multiplies_bf16", lambda device: True)
    task = nsopt.Task([make_sounds(16, seed)[0] for seed in range(4)], name="sounds")
    result = compress(trained, task, budgets=["macs=70%"])
    assert result["macs=70%"].score > 80


def test_the_curve_says_where_to_train(curve: nsopt.Compression) -> None:
    whole = curve.dense.cost["macs"]
    shares = [network.cost["macs"] / whole for network in curve.networks.values()]
    assert next(iter(curve)) == "macs=90%"
    assert dict(curve) == curve.networks
    assert "macs=200%" not in curve
    assert curve.get("macs=200%") is None
    assert len(shares) >= 5
    assert shares == sorted(shares, reverse=True)


def test_a_score_of_the_user_decides(trained: nn.Module) -> None:
    scored: list[nn.Module] = []

    def score(model: nn.Module) -> float:
        scored.append(model)
        return right_pitches(model)

    sounds = [make_sounds(16, seed)[0] for seed in range(4)]
    task = nsopt.Task(sounds, score=score, score_name="right pitches (%)")
    result = compress(trained, task, budgets=BUDGETS[:1])
    assert result[BUDGETS[0]].score == right_pitches(result[BUDGETS[0]].model)
    assert scored


@layers(weight=nn.Parameter(torch.randn(16, 4, dtype=torch.cfloat)), out=nn.Linear(16, 2))
def RealParts(self: Any, x: Tensor) -> Any:
    """Reads complex weights as two real ones."""
    real, imaginary = self.weight.real, self.weight.imag
    hidden = torch.complex(functional.linear(x, real), functional.linear(x, imaginary))
    return self.out(hidden.abs())


def test_real_parts_of_complex_weights_are_fitted() -> None:
    inputs = list(torch.randn(256, 4).split(32))
    small = nsopt.compress(RealParts(), nsopt.Task(inputs), ["params=80%"], epochs=0)["params=80%"]
    assert small.score > 95


def test_a_classifier_of_images_is_fitted(narrow: Architecture, digits: ImageData) -> None:
    settings = TrainSettings(epochs=4, batch_size=32, lr=0.05, device="cpu", precision="fp32")
    model = train(narrow, narrow.base_widths, digits, settings).model.eval()
    asked: dict[str, Any] = {"epochs": 0, "settings": exact(images=True)}
    asked["progress"] = nsopt.Silent()
    result = nsopt.compress(model, digits, ["macs=60%"], arch=narrow, **asked)
    small = result["macs=60%"]
    assert small.cost["macs"] <= 0.6 * result.dense.cost["macs"]
    assert small.val_accuracy > result.dense.val_accuracy - 15


def test_training_needs_epochs_and_targets(trained: nn.Module) -> None:
    sounds = nsopt.Task([make_sounds(16, 0)[0]], loss=nn.functional.cross_entropy, score=id)
    with pytest.raises(NsoptError, match="training needs targets"):
        compress(trained, sounds, epochs=1)
    arch = nsopt.trace(trained, make_sounds(2, 0)[0])
    with pytest.raises(NsoptError, match="epochs must be at least 1"):
        nsopt.train(arch, arch.base_widths, make_task(), TrainSettings(epochs=0))
    settings = nsopt.get_preset("smoke").settings
    none = settings.updated(training=settings.training.updated(epochs=0))
    with pytest.raises(NsoptError, match="epochs must be at least 1"):
        nsopt.compare(arch, make_task(), settings=none)


def test_training_begins_with_the_fit(trained: nn.Module, curve: nsopt.Compression) -> None:
    """Here with a ruinous learning rate: the fit itself stays the best."""
    task, settings = make_task(), exact(lr=30.0, batch_size=16, averaging=None, least_steps=20)
    budget, asked = BUDGETS[1], {"budgets": BUDGETS[1:], "settings": settings}
    fitted = curve[budget]
    tuned = compress(trained, task, epochs=1, **asked)
    assert (tuned[budget].widths, tuned[budget].score) == (fitted.widths, fitted.score)
    assert not tuned.results.searches, "nothing is searched"


def test_a_fit_is_the_same_before_and_after_a_training(
    narrow: Architecture, digits: ImageData, tmp_path: Path
) -> None:
    """Training lays its teacher out for convolutions; sums in another layout end a little apart."""
    settings = exact(images=True, epochs=1, device="cpu", least_steps=None)
    digits = digits.subset(None, 12)
    whole = narrow.build(narrow.base_widths).eval()
    subject = Subject.of(narrow, digits, settings.updated(start=whole))
    widths = tuple(width // 2 for width in narrow.base_widths)
    point = Point(FIT, MACS, 1.0, 0)
    session = start_session(subject, make_workspace(tmp_path), nsopt.Silent())
    before = Fits(session).fit(point, widths)
    first = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    session.train(widths, settings.training, tmp_path / "training", "one", lambda: before)
    after = Fits(session).fit(point, widths).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, after[name])


def test_another_budget_fits_only_its_own_networks_and_says_how_many(
    trained: nn.Module, curve: nsopt.Compression, tmp_path: Path
) -> None:
    """Those that an interrupted call left waiting wait for that call."""

    with suppress(KeyboardInterrupt):
        compress(trained, make_task(), out=tmp_path, progress=Interrupting("dense"))
    asked: dict[str, Any] = {"budgets": ["macs=55%"], "progress": (listener := Listener())}
    other = compress(trained, make_task(), out=tmp_path, **asked)
    assert other.results.outcomes["budget"].nunique() == 2, "that, and the trained network"
    assert sum(": fitted in" in text for text in listener.messages) == 1
    again = compress(trained, make_task(), out=tmp_path)
    assert [again[word].score for word in BUDGETS] == [curve[word].score for word in BUDGETS]


def test_uniform_widths_are_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of one layer has no other widths at a budget, and no training that names them."""
    model = nn.Sequential(nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 4))
    first, again = Listener(), Listener()
    asked: dict[str, Any] = {"budgets": "macs=50%", "out": tmp_path}
    chosen = compress(model, make_task(), **asked, progress=first)["macs=50%"]
    assert chosen.method == "uniform"
    assert "units ranked" in first.tasks
    monkeypatch.setattr("nsopt.compression.pipeline.check_budgets", lambda *_: None)
    monkeypatch.delattr(Solver, "solve")  # which may time networks for minutes
    assert compress(model, make_task(), **asked, progress=again)["macs=50%"].score == chosen.score
    assert "units ranked" not in again.tasks
