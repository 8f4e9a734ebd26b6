"""Methods compared on a task that is not of images: sound of one dimension."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt.errors import NsoptError
from nsopt.scaling.cost import LinearCost
from nsopt.session.presets import StudySettings, get_preset, override
from nsopt.session.stored import join_session
from nsopt.session.workspace import Workspace
from nsopt.study.compare import ComparisonResult
from tests.conftest import EXACT
from tests.networks import layers

PARTS = {"search": {**EXACT, "prune_every": 1, "filters_per_step": 4}}
PARTS |= {"training": {**EXACT, "epochs": 2}}
SETTINGS = override(get_preset("smoke").settings, PARTS)
FIELDS = StudySettings.model_fields.keys() - {"preset"}


@layers(a=nn.Sequential(nn.Conv1d(1, 24, 16, 4), nn.BatchNorm1d(24), nn.ReLU()))
@layers(b=nn.Sequential(nn.Conv1d(24, 24, 8, 2), nn.BatchNorm1d(24), nn.ReLU()))
@layers(out=nn.Linear(24, 4))
def Pitch(self: Any, sound: Tensor) -> Any:
    """Sound of 256 samples; the output is one of four pitches."""
    return self.out(self.b(self.a(sound[:, None])).mean(2))


def make_sounds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    pitch = torch.randint(4, (count,), generator=random)
    phase = torch.rand(count, 1, generator=random)
    time = torch.arange(256) / 256
    return torch.sin(6.283 * (time * 8 * (1 + pitch[:, None]) + phase)), pitch


@torch.no_grad()
def right_pitches(model: nn.Module) -> float:
    sounds, pitches = make_sounds(64, 1)
    return 100 * float((model(sounds).argmax(1) == pitches).float().mean())


def count_ms(model: nn.Module, sounds: Any = None) -> float:
    """Return milliseconds of a device on which each parameter takes the same time."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1000


def make_task(**changes: Any) -> nsopt.Task:
    sounds, pitches = make_sounds(128, 0)
    batches = list(zip(sounds.split(16), pitches.split(16), strict=True))
    own = {"name": "pitch", "score_name": "right pitches (%)"}
    return nsopt.Task(batches, functional.cross_entropy, right_pitches, **(own | changes))


def compare(arch: nsopt.Architecture, task: nsopt.Task, **changes: Any) -> ComparisonResult:
    own = {name: changes.pop(name) for name in FIELDS if name in changes}
    settings = SETTINGS.updated(ratios=(0.5,), seeds=2).updated(**own)
    asked = {"settings": settings}
    return nsopt.compare(arch, task, **(asked | changes), progress=nsopt.Silent())


@pytest.fixture(scope="module")
def arch() -> nsopt.Architecture:
    torch.manual_seed(0)
    return nsopt.trace(Pitch(), make_sounds(2, 0)[0])


@pytest.fixture(scope="module")
def study(
    arch: nsopt.Architecture, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ComparisonResult, Path]:
    out = tmp_path_factory.mktemp("sound")
    return compare(arch, make_task(), out=out), out


def test_budgets_are_equal(study: tuple[ComparisonResult, Path], arch: nsopt.Architecture) -> None:
    table = study[0].table
    assert table["method"].tolist() == ["uniform", "neuralscale"]
    assert (table["n"] == 2).all()
    assert (table["params"] <= table["budget"]).all()
    assert not [column for column in table if column.startswith("test")]
    outcomes = study[0].results.outcomes
    for row in outcomes.to_dict("records"):
        assert 0 <= row["score"] <= 100
        assert arch.cost("params")(row["widths"]) == row["params"] <= row["budget"]
        assert row["latency_ms"] > 0
    assert outcomes["test_score"].isna().all()


def test_the_answer_and_the_report_name_the_score_and_say_that_there_is_no_test(
    study: tuple[ComparisonResult, Path], tmp_path: Path
) -> None:
    (verdict,) = study[0].answer
    html = study[0]._repr_html_()
    assert "<td>neuralscale</td>" in html
    titles = ["size", "method", "n", "params", "MACs", "ms"]
    assert re.findall("<th>(.*?)</th>", html) == [*titles, "right pitches (%)"]
    assert verdict.text.split(".")[0] in html
    assert "right pitches (%)" in verdict.text or "no difference shown" in verdict.text
    assert "test accuracy" not in verdict.text
    page = study[0].report(tmp_path)
    text = page.read_text()
    assert "the same score\nselects and compares" in text
    assert "right pitches (%)" in text
    assert "classes" not in text.split("<h2>")[0].split("<body")[-1]
    table = pd.read_csv(page.with_name("outcomes.csv"))
    assert {"score", "latency_ms"} < set(table)
    assert "test_score" not in table


def test_the_same_call_continues_and_the_best_networks_can_be_loaded(
    study: tuple[ComparisonResult, Path], arch: nsopt.Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, out = study
    monkeypatch.setattr("nsopt.session.session.train_configuration", None)
    again = compare(arch, make_task(), out=f"sqlite:///{out / 'study.db'}")
    pd.testing.assert_frame_equal(again.table, first.table)
    row, uniform = first.table.iloc[0], first.results.outcomes.query("method == 'uniform'")
    kept = again.network("uniform", row["budget"])
    assert right_pitches(kept.model) == kept.score == uniform["score"].max()
    nsopt.export(kept, out / "best.pt2", "pt2", make_task())
    predict = nsopt.load_exported(out / "best.pt2")
    assert predict(make_sounds(3, 2)[0]).shape == (3, 4)
    with pytest.raises(NsoptError, match="was not trained at a budget of 7: give"):
        again.network("uniform", 7)
    with pytest.raises(NsoptError, match=r"'uniforn'.*uniform"):
        again.network("uniforn", 7)


def test_auto_rounds_to_the_multiple_of_the_device(
    arch: nsopt.Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsopt.session.subject.find_multiple", lambda *_: 4)
    found = compare(arch, make_task(), methods=["uniform"], seeds=1, multiple_of="auto")
    (row,) = found.results.outcomes.to_dict("records")
    assert all(width % 4 == 0 for width in row["widths"])
    assert found.network("uniform", row["budget"]).widths == tuple(row["widths"])


def test_another_network_of_the_same_name_does_not_continue_a_study(
    study: tuple[ComparisonResult, Path], arch: nsopt.Architecture
) -> None:
    smaller = arch.build([width - 1 for width in arch.base_widths])
    other = nsopt.trace(smaller, make_sounds(2, 0)[0])
    with pytest.raises(NsoptError, match=r"is of another .*, with other base widths: give another"):
        compare(other, make_task(), out=study[1])
    smoother = Pitch()
    smoother.a[2] = nn.GELU()
    other = nsopt.trace(smoother, make_sounds(2, 0)[0])
    with pytest.raises(NsoptError, match=r"is of another .*, with other code or attributes: give"):
        compare(other, make_task(), out=study[1])


def test_tasks_begin_anew(study: tuple[ComparisonResult, Path], arch: nsopt.Architecture) -> None:
    with pytest.raises(NsoptError, match=r"was written by other settings \(data.version: 2 now"):
        compare(arch, make_task(version=2), out=study[1])


def test_the_users_trainer_trains(arch: nsopt.Architecture, tmp_path: Path) -> None:
    trained: list[nsopt.TrainerContext] = []

    def train(model: nn.Module, task: nsopt.Task, context: nsopt.TrainerContext) -> nn.Module:
        trained.append(context)
        return model

    result = compare(
        arch,
        make_task(test=lambda model: right_pitches(model) / 2, trainer=train),
        methods=["uniform"],
        out=tmp_path,
    )
    outcomes = result.results.outcomes
    assert result.table["test_mean"][0] == outcomes["test_score"].mean()
    assert [context.seed for context in trained] == [0, 1]
    assert (outcomes["test_score"] == outcomes["score"] / 2).all()
    assert "test right pitches (%)" in str(result)
    assert not list(tmp_path.rglob("*.trainer")), "folders of finished trainings are removed"


def test_a_failed_trainer_begins_anew(arch: nsopt.Architecture, tmp_path: Path) -> None:
    def train(model: nn.Module, task: nsopt.Task, context: nsopt.TrainerContext) -> nn.Module:
        (context.folder / "checkpoint").touch(exist_ok=False)
        return nn.Linear(2, 2)

    for _ in range(2):
        with pytest.raises(NsoptError, match="the trainer must return the network that it got"):
            compare(arch, make_task(trainer=train), methods=["uniform"], out=tmp_path)
        assert not list(tmp_path.rglob("*.trainer"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["unifrom"]}, "uniform"),
        ({"settings": None, "preset": "quik"}, "quick"),
        ({"methods": "uniform"}, "methods must be a list, not 'uniform'"),
        ({"settings": {"epochs": 1}}, "settings must be StudySettings or None, not {'epochs': 1}"),
        ({"seeds": 0}, "seeds = 0: input should be greater"),
        ({"seeds": [0, 1]}, r"seeds = \[0, 1\]: input should be a valid integer"),
        ({"ratios": [0]}, "a width ratio must be above 0"),
        ({"ratios": 0.5}, "ratios = 0.5: input should be a valid tuple"),
        ({"ratios": []}, "ratios and budgets are empty: give at least one"),
        ({"out": ""}, "out= is empty: name a folder, or leave it out"),
        ({"budgets": [3]}, "budget"),
        ({"budgets": 3}, "budgets must be a list or text or None, not 3"),
        ({"start": "weights.pt"}, "start must be a trained network, not 'weights.pt'"),
        ({"metric": "mac"}, "macs"),
        ({"runtime": 5}, "runtime = 5: input should be a valid string"),
        ({"runtime": "onx"}, "unknown runtime 'onx'.*onnxruntime"),
        ({"latency_batch_size": 8}, "pitch are timed with its own batch of 16"),
    ],
)
def test_an_invalid_call_is_one_line_and_writes_nothing(
    arch: nsopt.Architecture, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(NsoptError, match=message):
        compare(arch, make_task(), **{"out": tmp_path, **changes})
    assert not list(tmp_path.iterdir())


def test_workers_do_not_train_without_the_trainer(tmp_path: Path) -> None:
    digits = nsopt.load_data("digits").subset(None, 10)
    with pytest.raises(NsoptError, match="trainer must be a function, not 5"):
        nsopt.compare("vgg11", replace(digits, trainer=5), settings=SETTINGS, out=tmp_path)
    with pytest.raises(NsoptError, match="give ratios or budgets, not both"):
        nsopt.compare("vgg11", digits, ratios=[0.5], budgets="3", out=tmp_path)
    assert not list(tmp_path.iterdir())
    nsopt.compare(
        "vgg11",
        replace(digits, trainer=lambda model, data, context: model),
        ["uniform"],
        [0.125],
        seeds=1,
        settings=SETTINGS,
        out=tmp_path,
        progress=nsopt.Silent(),
    )
    (file,) = tmp_path.glob("*.db")
    place = Workspace(f"sqlite:///{file}", tmp_path)
    with pytest.raises(NsoptError, match=r"is trained by .*lambda.*: give a task that names this"):
        join_session("vgg11-digits-10each-smoke", place, nsopt.Silent())


def test_joint_budgets_show_milliseconds_and_what_binds(arch: nsopt.Architecture) -> None:
    joint: dict[str, Any] = {"budgets": "params=50%,latency=900ms", "seeds": 1}
    measured = compare(arch, make_task(), methods=["uniform"], runtime=count_ms, **joint)
    (row,) = measured.table.to_dict("records")
    assert row["binding"] == "params"
    assert row["cost_latency"] == pytest.approx(row["latency_ms"], rel=0.1)


def test_milliseconds_are_of_the_runtime_of_the_call(arch: nsopt.Architecture) -> None:
    """A model of a slower device would make the budget of half of the time ten times larger."""
    slower = arch.with_latency(LinearCost("latency", arch.cost("macs"), 1.0))
    asked: dict[str, Any] = {"metric": "latency", "budgets": ["50%"], "seeds": 1}
    asked |= {"methods": ["uniform"], "runtime": count_ms}
    (row,) = compare(slower, make_task(), **asked).table.to_dict("records")
    assert row["budget"] == pytest.approx(count_ms(arch.build(arch.base_widths)) / 2)
    assert row["latency_ms"] <= row["budget"]


def test_an_architecture_is_asked_for_in_place_of_a_network() -> None:
    with pytest.raises(NsoptError, match="arch must be an architecture, which nsopt"):
        nsopt.compare(Pitch(), make_task())


def test_results_check_arguments(study: tuple[ComparisonResult, Path]) -> None:
    result = study[0]
    with pytest.raises(NsoptError, match="budget must be a number, not '600k'"):
        result.network("uniform", "600k")
    with pytest.raises(NsoptError, match="folder must be a path or text, not None"):
        result.report(None)
