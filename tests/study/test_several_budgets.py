"""A comparison at joint budgets, which hold at once."""

import dataclasses

import pytest

from nsopt.cli import console as module
from nsopt.cli.export import export_command, name_answer
from nsopt.cli.study import _print_summary
from nsopt.reports.page import render
from nsopt.reports.tables import predicted_latency, short_rows
from nsopt.reports.words import answer
from nsopt.scaling.metric import LATENCY, MACS, PARAMS, Joint, read_budgets
from nsopt.session.presets import rounding_for
from nsopt.session.workspace import Workspace
from nsopt.study.plan import Comparison, Size, run_comparison
from tests.study.test_comparison import (
    Listener,
    load_results,
    only,
    open_studies,
    timed_by_filters,
    with_latency_of_filters,
)

BUDGETS = "params=20k,macs=200k; params=10k,macs=5M"


@pytest.fixture
def joint(comparison: Comparison) -> Comparison:
    asked = [budget.at(comparison.subject.arch) for budget in read_budgets(BUDGETS, PARAMS)]
    sizes = tuple(Size(budget.metric, budget.limit) for budget in asked)
    return only(comparison, "uniform", sizes=sizes, seeds=1)


def test_all_budgets_hold_and_the_report_names_the_binding_one(
    joint: Comparison, place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run_comparison(joint, place, Listener())
    results = load_results(place)
    outcomes = results.outcomes
    assert len(outcomes) == 2
    assert outcomes["feasible"].all()
    first, second = (outcomes[outcomes["metric"] == size.metric.name] for size in joint.sizes)
    assert (first["macs"] <= 200_000).all()
    assert (second["params"] <= 10_000).all()
    assert set(first["binding"]) == {"macs"}
    assert set(second["binding"]) == {"params"}

    study = open_studies(place)["uniform"]
    trial = study.trials[0]
    assert trial.user_attrs["metric"] == "params=20000,macs=200000"
    assert (trial.user_attrs["budget"], trial.user_attrs["budget_macs"]) == (1, 200_000)
    assert trial.user_attrs["cost_macs"] == trial.user_attrs["macs"]
    assert trial.constraints.keys() == {"budget", "budget_params", "budget_macs"}
    assert max(trial.constraints.values()) <= 0

    answers = [str(verdict) for verdict in answer(results)]
    assert answers[0].startswith("10,000 params and 5,000,000 MACs: ")
    assert [row["note"] for row in short_rows(results)] == ["bound by params", "bound by MACs"]
    assert "bound by MACs" in render(results, [])
    command = export_command(place, name_answer(results), results.task.arch)
    assert "--budget=params=20000,macs=200000" in command
    module.console.width = 200
    _print_summary(results)
    assert "bound" in capsys.readouterr().out

    listener = Listener()
    run_comparison(joint, place, listener)
    assert not any("validation" in message for message in listener.messages)


def test_joint_budgets_store_predicted_latency(joint: Comparison, place: Workspace) -> None:
    joint = timed_by_filters(joint)
    arch = with_latency_of_filters(joint.subject.arch)
    limits = Joint.of([(PARAMS, 20_000), (LATENCY, 0.5)])
    task = dataclasses.replace(joint.subject, arch=arch)
    in_time = only(joint, "uniform", subject=task, sizes=(Size(limits, 1),))
    run_comparison(in_time, place, Listener())
    (row,) = load_results(place).outcomes.to_dict("records")
    assert row["binding"] == "latency"
    assert row["latency_ms"] <= 0.5
    assert row["cost_latency"] == arch.cost("latency")(row["widths"])
    assert predicted_latency(row) == f"{row['cost_latency']:.3f}"


def test_rounding_for_joint_budgets_satisfies_every_metric() -> None:
    joint = Joint.of([(MACS, 1_000_000), (LATENCY, 5.0)])
    multiple, least = {"macs": 8, "latency": 12}, {"params": 64, "macs": 16}
    assert rounding_for(multiple, least, joint) == (24, 16)
    assert rounding_for(4, None, joint) == (4, 1)
    assert rounding_for(multiple, least, MACS) == (8, 16)
