"""The duration of a study is estimated before it starts, and printed."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import nsopt
from nsopt import Architecture, Silent
from nsopt.latency.model import LatencyModel
from nsopt.pruning import engine
from nsopt.scaling.metric import LATENCY
from nsopt.session.searching import continue_searches
from nsopt.session.session import Session
from nsopt.session.workspace import Workspace
from nsopt.study.plan import (
    Comparison,
    Plan,
    Size,
    list_work,
    make_plan,
    run_comparison,
)
from nsopt.training import loop, step
from nsopt.training.precision import time_training_step
from tests.conftest import call_nsopt
from tests.study.test_comparison import Listener, only
from tests.study.test_workspace import CPU


def plan_of(comparison: Comparison, place: Workspace) -> Plan:
    return make_plan(comparison, Session(comparison.subject, place, CPU, Silent()))


def test_searches_and_trainings_are_counted_in_steps(
    comparison: Comparison, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, ran = only(comparison, "uniform", "neuralscale", seeds=1), [0]

    def train_step(*arguments: Any, **options: Any) -> Any:
        ran[0] += 1
        return step.train_step(*arguments, **options)

    for module in (engine, loop):
        monkeypatch.setattr(module, "train_step", train_step)
    plan = plan_of(two, place)
    search, *trainings = list_work(plan, plan.find_missing())
    continue_searches(plan.session, two.searches)
    assert search.steps == ran[0]
    assert list(list_work(plan_of(two, place), {})) == []
    settings, path = two.subject.settings.training, place.folder / "training.pt"
    plan.session.train(two.subject.arch.base_widths, settings, path, "training")
    assert [each.steps for each in trainings] == 2 * [ran[0] - search.steps]


def test_durations_are_reported_before_the_work(comparison: Comparison, place: Workspace) -> None:
    listener, uniform = Listener(), only(comparison, "uniform", seeds=1)
    run_comparison(uniform, place, listener)
    told = r"takes about \S+ \w+ here \(trainings \S+ \w+\), more .* and \S+ GB of memory"
    assert re.fullmatch(told, listener.messages[0])
    assert any("validation" in message for message in listener.messages[1:])


def test_measured_budgets_are_not_estimated(comparison: Comparison, place: Workspace) -> None:
    arch = comparison.subject.arch
    none = np.zeros(len(arch.base_widths))
    slow = arch.with_latency(LatencyModel(arch.cost("macs"), 0.0, none, 9.0))
    task = replace(comparison.subject, arch=slow)
    in_time = only(comparison, "uniform", subject=task, sizes=(Size(LATENCY, 5.0),))
    plan = plan_of(in_time, place)
    assert list(list_work(plan, plan.find_missing())) == []


def test_trainings_of_a_trainer_are_not_estimated(comparison: Comparison, place: Workspace) -> None:
    data = replace(comparison.subject.data, trainer=lambda model, *_: model)
    by_user = replace(comparison.subject, data=data)
    plan = plan_of(only(comparison, "uniform", subject=by_user), place)
    missing = plan.find_missing()
    assert sum(map(len, missing.values())) > 0
    assert list(list_work(plan, missing)) == []


class Remembering(nn.Module):
    """A loss that changes what it stores."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.get_buffer("calls").add_(1)
        return functional.cross_entropy(outputs, targets)


def test_a_timed_step_leaves_the_loss_of_a_task_as_it_is(narrow: Architecture) -> None:
    loss = Remembering()
    batch = torch.rand(4, *narrow.input_shape), torch.zeros(4, dtype=torch.int64)
    assert time_training_step(narrow, narrow.base_widths, 4, nsopt.Task([batch], loss), CPU) > 0
    assert loss.get_buffer("calls") == 0


def test_a_dry_run_prints_widths_and_duration_and_writes_nothing(tmp_path: Path) -> None:
    options = [f"--out={tmp_path / 'out'}", "--ratios=0.03,0.06", "--seeds=2", "--device=cpu"]
    options += ["--precision=fp32"]
    done = call_nsopt("study", "--dry-run", "--methods=uniform", *options)
    assert done.returncode == 0, done.stderr
    assert "takes about" in done.stdout
    assert "uniform 0.03x: 1-3-7-7-15-15-15-15" in done.stdout
    assert list(tmp_path.iterdir()) == []
