"""A study whose methods start from a trained network, which has a row beside them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nsopt import Architecture, ImageData, NsoptError, Silent, train
from nsopt.compute.checkpoint import weights_checksum
from nsopt.compute.device import resolve_compute
from nsopt.scaling.metric import PARAMS
from nsopt.session.session import Session, keep_start, with_start
from nsopt.session.workspace import Workspace
from nsopt.study.plan import Comparison, run_comparison
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervision import evaluate
from tests.conftest import first_digits
from tests.rescaled import with_base_widths
from tests.study.test_comparison import SETTINGS, load_results, only, open_studies, sizes_of_ratios

CPU = resolve_compute("cpu", "fp32")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    """400 training and 100 test digits, enough to learn from."""
    return first_digits(400, 100)


@pytest.fixture(scope="module")
def narrow(narrow: Architecture) -> Architecture:
    """Wide enough to learn well."""
    return with_base_widths(narrow, tuple(2 * width for width in narrow.base_widths))


@pytest.fixture(scope="module")
def trained(narrow: Architecture, digits: ImageData) -> nn.Module:
    settings = SETTINGS.training.updated(epochs=6, batch_size=32)
    return train(narrow, narrow.base_widths, digits, settings).model.eval()


@pytest.fixture
def started(comparison: Comparison, trained: nn.Module) -> Comparison:
    """All methods at half the parameters, gently fine-tuned for an epoch."""
    gentle = SETTINGS.training.updated(batch_size=32, lr=0.01, schedule="linear", distillation=0.5)
    settings = SETTINGS.updated(start=weights_checksum(trained), training=gentle)
    task = replace(comparison.subject, settings=settings, start=trained)
    sizes = sizes_of_ratios(task.arch, PARAMS, [0.75, 1.0])
    changed = replace(comparison, subject=task, sizes=sizes, seeds=1)
    return only(changed, "dense", "uniform", "neuralscale")


def test_methods_inherit_weights_and_the_trained_network_has_a_row(
    started: Comparison, trained: nn.Module, place: Workspace
) -> None:
    run_comparison(started, place, Silent())
    outcomes = load_results(place).outcomes.set_index(["method", "ratio"])
    splits = started.subject.splits
    dense = outcomes.loc["dense"]
    assert dense.index.tolist() == [1.0]  # it has no other size
    own = evaluate(Classification(splits).test(CPU), trained)
    assert dense.loc[1.0, "test_score"] == pytest.approx(own)
    arch = started.subject.arch
    assert dense.loc[1.0, "params"] == PARAMS.cost(arch)(arch.base_widths)
    base = started.subject.arch.base_widths
    for method in ("uniform", "neuralscale"):
        row = outcomes.loc[(method, 0.75)]
        assert all(width <= most for width, most in zip(row["widths"], base, strict=True))
        assert row["score"] > 50  # one gentle epoch from scratch gives some 20
    (search,) = open_studies(place)["search"].trials
    assert search.user_attrs["seconds"] > 0


def test_inherited_starts_win(started: Comparison, place: Workspace, trained: nn.Module) -> None:
    session = Session(started.subject, place, CPU, Silent())
    unstarted = started.subject.settings.updated(start=None)
    scratch = replace(started.subject, start=None, settings=unstarted)
    settings = SETTINGS.training.updated(batch_size=32, lr=0.01)
    widths = tuple(3 * width // 4 for width in started.subject.arch.base_widths)
    file = place.folder / "training.pt"
    inherited = session.train(widths, settings, file, "inherited").val_accuracy
    fresh = Session(scratch, place, CPU, Silent()).train(widths, settings, file, "fresh")
    assert inherited > fresh.val_accuracy + 20


def test_workers_read_the_network_that_was_kept(
    started: Comparison, trained: nn.Module, place: Workspace, tmp_path: Path
) -> None:
    keep_start(started.subject, place)
    stored = replace(started.subject, start=None)
    found = with_start(stored, place).start
    assert found is not None
    torch.testing.assert_close(found.state_dict(), trained.state_dict(), rtol=0, atol=0)
    elsewhere = replace(place, folder=tmp_path / "elsewhere")
    with pytest.raises(NsoptError, match=r"as out=, or copy trained-\d+.pt from it to .*else"):
        with_start(stored, elsewhere)
    others = replace(stored, settings=stored.settings.updated(start=1))
    (kept,) = place.folder.glob("trained-*.pt")
    kept.rename(place.folder / "trained-1.pt")
    with pytest.raises(NsoptError, match="has other weights than vgg11-digits-test starts from"):
        with_start(others, place)


def test_a_study_that_starts_from_weights_is_not_continued_from_scratch(
    started: Comparison, comparison: Comparison, place: Workspace
) -> None:
    started.subject.open_study(place.storage, "uniform", CPU)
    with pytest.raises(NsoptError, match="start: None now, "):
        comparison.subject.stored_studies(place)


def test_the_dense_method_needs_weights(comparison: Comparison, place: Workspace) -> None:
    with pytest.raises(NsoptError, match="dense is a trained network: give its weights with start"):
        run_comparison(only(comparison, "dense"), place, Silent())
    assert not place.has_storage
