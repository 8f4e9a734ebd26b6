"""A study has one precision, wherever its networks are trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nsopt import NsoptError, Silent, get_preset
from nsopt.cli.options import OutputOptions, TaskOptions, TrainingOptions
from nsopt.cli.preparation import prepare
from nsopt.compute import device
from nsopt.compute.device import Compute
from nsopt.session import subject
from nsopt.session.subject import Subject, complete, with_precision
from nsopt.session.workspace import Workspace
from nsopt.settings import Precision
from nsopt.storage import schema
from nsopt.storage.studies import open_study
from nsopt.study.plan import Comparison
from tests.conftest import first_digits

CPU = Compute(torch.device("cpu"), bf16=False)


def set_precision(comparison: Comparison, precision: Precision) -> Subject:
    own = comparison.subject.settings
    parts = {p: getattr(own, p).updated(precision=precision) for p in ("search", "training")}
    return replace(comparison.subject, settings=own.updated(**parts))


def read_precisions(task: Subject) -> set[str]:
    return {task.settings.search.precision, task.settings.training.precision}


@pytest.fixture
def slow_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fast bf16, unlike the one that began the study."""
    monkeypatch.setattr(device, "_multiplies_bf16", lambda device: False)


@pytest.mark.usefixtures("slow_bf16")
def test_the_precision_of_the_first_process_applies_on_other_machines(
    comparison: Comparison, place: Workspace
) -> None:
    auto = set_precision(comparison, "auto")
    assert read_precisions(with_precision(auto, place)) == {"fp32"}
    study = set_precision(comparison, "bf16").open_study(place.storage, "uniform", CPU)
    assert read_precisions(with_precision(auto, place)) == {"bf16"}
    stored = schema.read_settings(study)  # which workers use
    assert stored["search"]["precision"] == stored["training"]["precision"] == "bf16"
    other = with_precision(set_precision(comparison, "fp32"), place)
    with pytest.raises(NsoptError, match=r"training\.precision: fp32 now, bf16 there"):
        other.open_study(place.storage, "uniform", CPU)


def test_a_study_stored_with_precision_auto_is_continued(
    comparison: Comparison, place: Workspace
) -> None:
    auto = set_precision(comparison, "auto")
    auto.open_study(place.storage, "uniform", CPU)
    assert with_precision(auto, place).stored_studies(place).keys() == {"uniform"}


def test_too_few_images_are_refused_before_a_step_is_timed(
    comparison: Comparison, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(subject, "choose_compute")
    auto = replace(set_precision(comparison, "auto"), data=first_digits(10, 10))
    with pytest.raises(NsoptError, match="10 training images of 10 classes are too few"):
        with_precision(auto, place)


@pytest.mark.usefixtures("slow_bf16")
def test_a_tuning_study_fixes_the_precision_too(comparison: Comparison, place: Workspace) -> None:
    task = set_precision(comparison, "bf16")
    name = schema.study_name(schema.tuning_name(task.name), "eta")
    open_study(place.storage, name, task.description, task.source, task.identity, {}, ("", ""))
    assert read_precisions(with_precision(set_precision(comparison, "auto"), place)) == {"bf16"}


@pytest.mark.usefixtures("slim")
def test_a_command_replaces_precision_auto_by_that_of_the_device(tmp_path: Path) -> None:
    settings = get_preset("smoke").settings
    assert settings.training.precision == "auto"
    options = TaskOptions(), OutputOptions(out=tmp_path)
    *named, workspace = prepare(*options, settings, TrainingOptions())
    task = complete(Subject.of(*named), workspace, Silent())
    usual = device.resolve_compute("auto", "auto").precision
    assert read_precisions(task) <= {
        usual,
        "fp32",
    }  # the faster one; searches differ from trainings
