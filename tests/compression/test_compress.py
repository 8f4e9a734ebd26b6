"""Compression of a trained classifier to budgets."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nsopt
from nsopt import Architecture, ImageData, NsoptError, TrainSettings, train
from nsopt.compression.budgets import budgets_of, read_words, split_budgets
from nsopt.progress import Progress
from nsopt.reports.page import render
from nsopt.session.presets import get_preset, override
from nsopt.session.subject import Subject
from tests.conftest import EXACT, one_line
from tests.networks import layers
from tests.study.test_comparison import Interrupting, Listener

Done = tuple[nsopt.Compression, Path]
PARTS = {"search": {**EXACT, "batch_size": 32}}
PARTS |= {"training": {**PARTS["search"], "least_steps": None}}
SETTINGS = override(get_preset("compress").settings, PARTS)


@pytest.fixture(scope="module")
def trained(narrow: Architecture, digits: ImageData) -> nn.Module:
    settings = TrainSettings(epochs=6, batch_size=32, lr=0.05, **EXACT)
    return train(narrow, narrow.base_widths, digits, settings).model.eval()


@pytest.fixture(scope="module")
def compressed(
    trained: nn.Module,
    narrow: Architecture,
    digits: ImageData,
    tmp_path_factory: pytest.TempPathFactory,
) -> Done:
    out = tmp_path_factory.mktemp("compressed")
    return run(trained, narrow, digits, out), out


def run(
    model: nn.Module,
    arch: Architecture,
    data: ImageData,
    out: Path,
    progress: Progress | None = None,
) -> nsopt.Compression:
    return nsopt.compress(
        model,
        data,
        ["params=50%", "params=20000,macs=50%"],
        arch=arch,
        epochs=3,
        settings=SETTINGS,
        out=out,
        progress=progress,
    )


def test_budgets_yield_networks(compressed: Done, narrow: Architecture, digits: ImageData) -> None:
    result, _ = compressed
    params = narrow.cost("params")
    half, small = result["params=50%"], result["params=20000,macs=50%"]
    assert half.cost["params"] <= params(narrow.base_widths) / 2 < 1.2 * half.cost["params"]
    assert small.cost["params"] <= 20000
    assert small.cost["macs"] <= narrow.cost("macs")(narrow.base_widths) / 2
    assert result.dense.widths == narrow.base_widths
    assert result.dense.val_accuracy > 80
    assert half.val_accuracy > 70
    assert half.agreement is not None
    assert 50 < half.agreement <= 100
    assert result.dense.agreement is None
    assert half.epochs == half.planned == 3
    splits = digits.split(0.1)
    images = (splits.test.images - splits.mean[:, None, None]) / splits.std[:, None, None]
    with torch.no_grad():
        right = half.model(images).argmax(1) == splits.test.labels
    assert 100 * right.double().mean() == pytest.approx(half.test_accuracy, abs=1.01)
    assert all(w <= most for w, most in zip(half.widths, narrow.base_widths, strict=True))


def test_every_budget_trains_candidates_and_returns_the_best_of_them(compressed: Done) -> None:
    result, _ = compressed
    fine_tuned = result.results.outcomes.query("method != 'dense'").groupby("metric")
    assert len(fine_tuned) == 2
    for metric, group in fine_tuned:
        chosen = result["params=50%" if metric == "params" else "params=20000,macs=50%"]
        rows = group.set_index("method")
        candidates, plain = result.results.candidates, metric == "params"
        compared = [own for word, own in candidates if "," in word or plain]
        taken = {own.name: own.widths for own in compared if own.trained}
        assert rows["widths"].to_dict().items() <= taken.items()
        assert 1 <= len(rows) <= 2
        assert chosen.val_accuracy == rows["score"].max() == rows["score"][chosen.method]
        assert chosen.widths == rows["widths"][chosen.method]


def test_a_trainer_gets_no_images_that_validate(narrow: Architecture, digits: ImageData) -> None:
    by_user = replace(digits, trainer=lambda model, *_: model)
    subject = Subject.of(narrow, by_user, SETTINGS.updated(start=narrow.build(narrow.base_widths)))
    given = subject.training_data
    assert isinstance(given, ImageData)
    assert given.validation is not None
    assert len(given.train) + len(given.validation) == len(digits.train)
    validating = {image.numpy().tobytes() for image in given.validation.images}
    assert not any(image.numpy().tobytes() in validating for image in given.train.images)
    assert given.split(0.5).normalisation == subject.splits.normalisation


def test_the_page_warns_of_split_images(compressed: Done) -> None:
    results = compressed[0].results
    assert results.split is None
    split = replace(results, split=0.8)
    assert "put your test images into test/ of the folder" in render(split, [])
    study = replace(split, networks=())  # which trains its networks itself
    assert "nsopt chose" not in render(study, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"weight": torch.zeros(1)}}, "give a torch.nn.Module with its weights"),
        ({"model": nn.Sequential}, "give a torch.nn.Module with its weights"),
        ({"task": "folder:photos"}, "give an nsopt.Task or an nsopt.ImageData"),
        ({"budgets": "macs=50%,params=9k"}, "budgets must be a list of words"),
        ({"budgets": []}, "give at least one budget"),
        (
            {"arch": nsopt.get_architecture("vgg11", in_channels=1)},
            "the model is not vgg11 of base widths: ",
        ),
        ({"budgets": [0.5]}, "0.5 is not a budget: write a word such as 'macs=50%'"),
        ({"epochs": "3"}, "epochs must be a whole number or None, not '3'"),
        ({"trainer": 5}, "trainer must be a function, not 5"),
        ({"settings": get_preset("compress")}, "settings must be those of a preset: nsopt."),
    ],
)
def test_wrong_arguments_are_answered_in_one_line(
    trained: nn.Module, digits: ImageData, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    usual: dict[str, Any] = {"model": trained, "task": digits, "budgets": ["macs=50%"]}
    with one_line(re.escape(message)):
        nsopt.compress(**usual | changes, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_for_out_are_refused(trained: nn.Module, digits: ImageData, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NsoptError, match=r"cannot write to .*file .*: give another out="):
        nsopt.compress(trained, digits, ["macs=50%"], out=tmp_path / "file")


def test_a_result_is_shown_as_a_table_and_lists_its_budgets(compressed: Done) -> None:
    result, _ = compressed
    whole, half, _ = repr(result).splitlines()[1:]
    assert "trained" not in repr(result).splitlines()[0], "all ran to their ends"
    smaller = result["params=50%"]
    assert f"  {result.dense.accuracy:.4g}  " in whole
    change = smaller.accuracy - result.dense.accuracy
    assert f"  {smaller.accuracy:.4g}{f' ({change:+.2g})' if change else ''}  " in half
    assert half.endswith("-".join(map(str, smaller.widths)))
    with pytest.raises(NsoptError, match="unknown budget 'params=50': did you mean 'params=50%'"):
        result["params=50"]


def test_guessing_is_reported(narrow: Architecture, digits: ImageData, tmp_path: Path) -> None:
    """So that a user sees before the fits that the normalisation is not that of the training."""
    hearer = Interrupting()
    untrained = narrow.build(narrow.base_widths).eval()
    with pytest.raises(KeyboardInterrupt, match="are mean= and std= those of its training"):
        run(untrained, narrow, digits, tmp_path, hearer)
    assert "units ranked" not in hearer.tasks


def test_the_duration_is_estimated_before_anything_is_ranked(
    trained: nn.Module, narrow: Architecture, digits: ImageData
) -> None:
    hearer = Interrupting("takes about")
    asked = {"arch": narrow, "settings": SETTINGS, "progress": hearer}
    pattern = r"^takes about .* here \(training, after the fits .*\), more .*, and .* GB of memory$"
    with pytest.raises(KeyboardInterrupt, match=pattern):
        nsopt.compress(trained, digits, ["macs=50%,params=60%"], **asked)
    assert "units ranked" not in hearer.tasks


@layers(form=None, stem=nn.Conv2d(1, 16, 3, 2), head=nn.Linear(16, 10))
def Outputs(self: Any, images: torch.Tensor) -> Any:
    """A classifier whose outputs have another form, always or in training."""
    logits = self.head(self.stem(images).relu().mean((2, 3)))
    if self.form == "dictionary":
        return {"logits": logits}
    if self.form == "probabilities":
        return logits.sigmoid()
    if self.form == "maps":
        return logits[:, :, None, None]
    return (logits, logits) if self.form == "tuple" or self.training else logits


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("tuple", "returns a tuple, not logits"),
        ("dictionary", "returns a dict, not logits"),
        (
            "maps",
            r"returns a tensor of shape \(2, 10, 1, 1\), not logits .*, here \(2, 10\): wrap it",
        ),
        ("auxiliary", "returns a tuple in training, not logits"),
    ],
)
def test_a_classifier_with_other_outputs_is_refused_before_anything_is_trained(
    digits: ImageData, form: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.compress(Outputs(form), digits, ["params=50%"], out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_outputs_between_0_and_1_are_warned_of(digits: ImageData, tmp_path: Path) -> None:
    """As after Sigmoid: taken for logits, they are nearly equal."""
    hearer, model = Interrupting(""), Outputs("probabilities")
    with pytest.raises(KeyboardInterrupt, match="lie between 0 and 1, as after Sigmoid"):
        nsopt.compress(model, digits, ["params=50%"], out=tmp_path, progress=hearer)


def test_other_sizes_are_refused(trained: nn.Module, digits: ImageData, tmp_path: Path) -> None:
    side = digits.image_size
    arch = nsopt.trace(trained, torch.zeros(2, 1, side + 8, side + 8))
    message = rf"is for inputs of \(1, {side + 8}.*have \(1, {side}, {side}\): give the arch"
    with pytest.raises(NsoptError, match=message):
        nsopt.compress(trained, digits, ["macs=50%"], arch=arch, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_call_again_trains_nothing(
    compressed: Done,
    trained: nn.Module,
    narrow: Architecture,
    digits: ImageData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, out = compressed
    monkeypatch.setattr("nsopt.session.session.train_configuration", None)
    monkeypatch.setattr("nsopt.compression.fits.fit_network", None)
    again = run(trained, narrow, digits, out)
    for name, own in again.networks.items():
        assert own.widths == first[name].widths
        assert own.test_accuracy == first[name].test_accuracy
        torch.testing.assert_close(own.model.state_dict(), first[name].model.state_dict())


def test_a_budget_above_the_time_of_the_network_is_refused_and_leaves_nothing(
    trained: nn.Module, narrow: Architecture, digits: ImageData, tmp_path: Path
) -> None:
    settings = SETTINGS.updated(runtime=lambda *_: 5.0)
    options: dict[str, Any] = {"arch": narrow, "settings": settings}
    with pytest.raises(NsoptError, match="latency=9ms: the network already costs only 5 ms"):
        nsopt.compress(trained, digits, ["params=50%", "latency=9ms"], out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_budget_in_milliseconds_without_widths_ends_all_before_a_fit(
    trained: nn.Module, narrow: Architecture, digits: ImageData
) -> None:
    def clock(module: nn.Module, images: torch.Tensor) -> float:
        return 9.0 + sum(parameter.numel() for parameter in module.parameters()) / 1e6

    budgets, hearer = ["params=50%", "latency=50%"], Listener()
    settings = SETTINGS.updated(runtime=clock)
    options: dict[str, Any] = {"arch": narrow, "settings": settings, "progress": hearer}
    with pytest.raises(NsoptError, match="latency=50%: no widths fit"):
        nsopt.compress(trained, digits, budgets, **options)
    assert "units ranked" not in hearer.tasks


def test_budgets_are_read_from_strings(narrow: Architecture) -> None:
    half, plain = budgets_of(read_words(["macs=50%", "params=20k"]), narrow)
    macs = narrow.cost("macs")(narrow.base_widths)
    assert (half.metric.name, half.limit) == ("macs", macs // 2)
    assert (plain.metric.name, plain.limit) == ("params", 20_000)
    assert read_words("macs=50%") == read_words(["macs=50%"])
    assert len(budgets_of(read_words(["macs=50%", "macs=50%"]), narrow)) == 1
    assert split_budgets("macs=50%, params=20k") == ["macs=50%", "params=20k"]
    assert split_budgets("macs=50%,params=20k; params=9k") == ["macs=50%,params=20k", "params=9k"]
    (both,) = budgets_of(read_words(["params=20k,macs=50%"]), narrow)
    assert both.metric.name == f"params=20000,macs={macs // 2}"
    budgets_of(read_words(["params=9G,macs=50%"]), narrow)  # one of them binds
    with pytest.raises(NsoptError, match="'curve' stands for nine budgets: give it without others"):
        read_words(["macs=50%", "curve"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("50%", "is not a budget: write macs=50%"),
        ("macs=150%", "must be between 0 and 100"),
        ("params=9G", "the network already costs only .* params; give a smaller budget"),
        ("params=9G,macs=90G", "already costs only .* params and .* MACs; give a smaller budget"),
        ("latency=5ms,latency=50%", "two budgets of latency cannot hold at once"),
        ("macs=50%,macs=20k", "two budgets of macs cannot hold at once"),
        ("macs=0.01%", "macs=0.01%: no widths fit a budget of"),
    ],
)
def test_invalid_budgets_fail_before_anything_runs(
    trained: nn.Module,
    narrow: Architecture,
    digits: ImageData,
    tmp_path: Path,
    word: str,
    message: str,
) -> None:
    with pytest.raises(NsoptError, match=message):
        nsopt.compress(trained, digits, [word], arch=narrow, out=tmp_path, settings=SETTINGS)
    assert not list(tmp_path.iterdir())


def test_widths_are_multiples_and_the_trained_network_stays_whole(
    trained: nn.Module, narrow: Architecture, digits: ImageData
) -> None:
    settings = SETTINGS.updated(multiple_of=3)
    result = nsopt.compress(trained, digits, ["macs=50%"], arch=narrow, epochs=1, settings=settings)
    assert any(width % 3 for width in narrow.base_widths)
    (dense,) = result.results.outcomes.query("method == 'dense'")["widths"]
    assert dense == result.dense.widths == narrow.base_widths
    assert not any(width % 3 for width in result["macs=50%"].widths)


def test_infeasible_rounding_fails_before_anything_runs(
    trained: nn.Module, narrow: Architecture, digits: ImageData, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"arch": narrow, "settings": SETTINGS.updated(min_width=4096)}
    with pytest.raises(NsoptError, match="4096 is above"):
        nsopt.compress(trained, digits, ["macs=50%"], out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_any_module_is_compressed_with_its_own_normalisation(
    digits: ImageData, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )
    own = replace(digits, name="mine").normalised_by([0.5], [0.25])
    arch = nsopt.trace(model, torch.zeros(2, 1, 32, 32))
    quick = SETTINGS.training.updated(epochs=4, schedule=None, warmup_epochs=None, averaging=None)
    quick = quick.updated(distillation=None, lr=0.05)
    trained = train(arch, arch.base_widths, own, quick).model.eval()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    strides = [tensor.stride() for tensor in trained.parameters()]
    trained.train()
    result = nsopt.compress(
        trained,
        own,
        ["params=60%"],
        epochs=1,
        settings=SETTINGS,
        out=tmp_path,
        progress=nsopt.Silent(),
    )
    smaller = result["params=60%"]
    assert smaller.network.mean == (0.5,)
    assert smaller.network.std == (0.25,)
    assert smaller.cost["params"] <= 0.6 * result.dense.cost["params"]
    assert smaller.val_accuracy > 20  # 10 is chance
    assert trained.training  # the model of the user is as it was
    assert [tensor.stride() for tensor in trained.parameters()] == strides
    torch.testing.assert_close(dict(trained.state_dict()), before, rtol=0, atol=0)
    assert capfd.readouterr() == ("", "")
    file = tmp_path / "smaller.pt"
    nsopt.export(smaller.network, file, "state_dict")
    with pytest.raises(NsoptError, match=r"'sequential' was traced in Python: load it there with"):
        nsopt.load_network(file)
    loaded = nsopt.load_network(file, nsopt.trace(trained, torch.zeros(2, 1, 32, 32))).model
    torch.testing.assert_close(loaded.state_dict(), smaller.model.state_dict(), rtol=0, atol=0)
