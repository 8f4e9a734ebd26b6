"""Budgets in milliseconds hold as measured, and measurements are stored."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from nsopt import NsoptError, Silent, get_architecture, solve_widths, uniform_curve
from nsopt.compute.device import Compute
from nsopt.latency import model
from nsopt.latency.budget import MOST_TIMED, MeasuredBudget
from nsopt.latency.model import LatencyModel, sample_widths
from nsopt.latency.runtime import OwnMeasure
from nsopt.latency.timer import Timer
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.scaling.solve import Limits
from nsopt.session.runner import measure_again, with_latency_if_needed
from nsopt.session.workspace import Workspace
from nsopt.storage.studies import StoredTimings
from nsopt.study.plan import Comparison, Size, preview_comparison, run_comparison
from nsopt.study.tuning import Tuning, run_tuning
from tests.study.joined import join
from tests.study.test_comparison import load_results, only, open_studies
from tests.study.test_workspace import CPU

Clock = Callable[[nn.Module, torch.Tensor], float]


class Parameters:
    """A clock that measures 1 ms, and 1 ms more for each 10,000 parameters."""

    def __init__(self) -> None:
        self.timed: list[int] = []
        self.batches: set[int] = set()

    def __call__(self, module: nn.Module, images: torch.Tensor) -> float:
        self.batches.add(len(images))
        self.timed.append(sum(p.numel() for p in module.parameters()))
        return 1 + self.timed[-1] / 10_000


def in_milliseconds(
    comparison: Comparison, clock: Clock, place: Workspace, batch_size: int = 100
) -> Comparison:
    """Return a comparison of two methods at 5 ms, as a clock measures them."""
    runtime = OwnMeasure("tests:clock", clock, batch_size)
    changes = {"runtime": runtime.name, "latency_batch_size": batch_size}
    settings = comparison.subject.settings.updated(**changes)
    task = dataclasses.replace(comparison.subject, settings=settings, runtime=runtime)
    task = with_latency_if_needed(task, True, place, Silent())
    sizes = (Size(LATENCY, 5.0),)
    return only(comparison, "uniform", "neuralscale", subject=task, sizes=sizes, seeds=1)


def test_a_budget_in_ms_holds_as_measured(comparison: Comparison, place: Workspace) -> None:
    clock = Parameters()
    in_time = in_milliseconds(comparison, clock, place)
    assert isinstance(in_time.subject.arch.latency, LatencyModel)
    run_comparison(in_time, place, Silent())
    rows = load_results(place).outcomes.to_dict("records")
    assert {row["method"] for row in rows} == {"uniform", "neuralscale"}
    for row in rows:
        assert row["latency_ms"] == pytest.approx(1 + row["params"] / 10_000)
        assert 4.6 < row["latency_ms"] <= 5
        assert row["feasible"]
    learned = len(sample_widths(comparison.subject.arch, model._RANDOM, seed=0))
    assert len(set(clock.timed)) <= learned + 2 * MOST_TIMED
    before = list(clock.timed)
    run_comparison(in_time, place, Silent())
    assert clock.timed == before
    assert load_results(place).latency_unit == "ms per batch of 100, tests:clock"
    how = {"batch_sizes": [100], "device": "cpu", "runtime": in_time.subject.runtime}
    timed = measure_again(place.url, Silent(), **how)
    assert {latency.runtime for _, latency in timed} == {"tests:clock"}
    with pytest.raises(NsoptError, match="give measure=tests:clock"):
        measure_again(place.url, Silent(), batch_sizes=[100], device="cpu")
    studies = open_studies(place)
    networks = [*studies["uniform"].trials, *studies["neuralscale"].trials]
    assert all(trial.constraints["budget"] <= 0 for trial in networks)


def test_latency_can_be_of_single_images(comparison: Comparison, place: Workspace) -> None:
    clock = Parameters()
    run_comparison(in_milliseconds(comparison, clock, place, batch_size=1), place, Silent())
    assert clock.batches == {1}
    results = load_results(place)
    assert results.outcomes["feasible"].all()
    exactly = 1 + results.outcomes["params"] / 10_000
    assert results.outcomes["latency_ms"].tolist() == pytest.approx(exactly.tolist())
    assert set(results.latencies["batch_size"]) == {1}
    assert results.latency_unit == "ms per batch of 1, tests:clock"
    names = ["validation accuracy (%)", "latency (ms per batch of 1)"]
    assert open_studies(place)["uniform"].metric_names == names


def test_a_tuning_keeps_measured_budgets(comparison: Comparison, place: Workspace) -> None:
    clock = Parameters()
    task = in_milliseconds(comparison, clock, place).subject
    tuning = Tuning(
        subject=task,
        metric=LATENCY,
        budget=5.0,
        over="pretrain-epochs",
        trials=0,
        seeds=1,
        pretrain_epochs=(0, 1),
    )
    study = run_tuning(tuning, place, Silent())
    tried = [trial.user_attrs["params"] for trial in study.trials]
    assert len(tried) == 2
    assert all(4.6 < 1 + params / 10_000 <= 5 for params in tried)
    before = list(clock.timed)
    run_tuning(tuning, place, Silent())
    assert clock.timed == before


def test_stored_widths_outlive_a_latency_model(comparison: Comparison, place: Workspace) -> None:
    in_time = only(in_milliseconds(comparison, Parameters(), place), "uniform")
    run_comparison(in_time, place, Silent())
    (widths,) = load_results(place).outcomes["widths"]
    arch, studies = in_time.subject.arch, open_studies(place)
    none = np.zeros(len(arch.base_widths))
    other = arch.with_latency(LatencyModel(MACS.cost(arch), 1.0, none, 7.0))
    law = uniform_curve(arch.base_widths)
    asked = MeasuredBudget(other, law, LATENCY, 5.0, Limits(1, 1))
    store = StoredTimings(studies["uniform"], studies.values)
    timer = Timer(CPU, in_time.subject.runtime, Silent(), store=store)
    cost = LATENCY.cost(asked.keeping(timer.find(asked)))
    assert tuple(solve_widths(law, cost, 5.0, warn=False).widths.tolist()) == widths


def test_a_worker_imports_no_function_by_name(comparison: Comparison, place: Workspace) -> None:
    settings = comparison.subject.settings.updated(runtime="tests:clock")
    arch = get_architecture("vgg11", in_channels=1)
    task = dataclasses.replace(comparison.subject, arch=arch, settings=settings)
    task.open_study(place.storage, "uniform", Compute(torch.device("cpu"), bf16=False))
    with pytest.raises(NsoptError, match="give measure=tests:clock"):
        join(task.name, place, Silent(), device="cpu", threads=1)


def test_a_dry_run_times_and_writes_nothing(comparison: Comparison, place: Workspace) -> None:
    clock = Parameters()
    in_time = only(in_milliseconds(comparison, clock, place), "uniform")
    before = len(clock.timed)
    assert preview_comparison(in_time, place, Silent())
    assert len(clock.timed) == before
    assert not place.has_storage
