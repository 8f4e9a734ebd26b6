"""Budgets as the options of a command give them."""

import pytest
import torch

import nsopt
from nsopt.cli.options import SizeOptions
from nsopt.cli.preparation import announce, read_metrics, read_sizes
from nsopt.data.source import Source
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.models.architecture import TableArchitecture
from nsopt.scaling.cost import LinearCost
from nsopt.session.presets import get_preset
from nsopt.session.subject import Subject
from tests.study.test_comparison import SETTINGS


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (SizeOptions(ratios="0.25,25%,0.5"), 2),
        (SizeOptions(budgets="20k,20000,0.02M"), 1),
        (SizeOptions(budgets="params=20k; macs=20k; params=20000"), 2),
        (SizeOptions(budgets="params=20k,macs=1M; macs=1000k,params=20k"), 1),
        (SizeOptions(), 2),
    ],
)
def test_a_budget_that_is_given_twice_counts_once(
    narrow: TableArchitecture, options: SizeOptions, count: int
) -> None:
    sizes = read_sizes(options, narrow, (0.25, 0.5, 0.25))
    assert len(sizes) == count
    assert sizes[0].ratio in (0.25, None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        *((SizeOptions(ratios=text), "must be above 0 and finite") for text in ("0", "nan", "inf")),
        *((SizeOptions(ratios=text), "no budget is given") for text in ("", ",")),
        (SizeOptions(budgets=","), "no budget is given: write --ratios 0.25,0.5 or --budgets"),
    ],
)
def test_invalid_and_missing_budgets_are_refused_before_any_work(
    options: SizeOptions, reason: str
) -> None:
    with pytest.raises(NsoptError, match=reason):
        read_metrics(options)


def test_the_batches_of_a_task_are_its_own(
    narrow: TableArchitecture, capsys: pytest.CaptureFixture[str]
) -> None:
    task = nsopt.Task([(torch.zeros(2, 3), torch.zeros(2))], name="pitch")
    announce(Subject(narrow, task, Source("pitch"), SETTINGS), get_preset("smoke"))
    assert "training: 1 epoch, batches of the task, learning rate" in capsys.readouterr().out


def test_predicted_milliseconds_refuse_no_budget_for_which_networks_are_timed(
    narrow: TableArchitecture,
) -> None:
    arch = narrow.with_latency(LinearCost("latency", narrow.cost("macs"), 1.0))
    short = SizeOptions(budgets="1ms", metric="latency")
    both = SizeOptions(budgets="latency=1ms,params=20k")
    for options in (short, both):
        assert len(read_sizes(options, arch, ())) == 1
        with pytest.raises(NoWidthsError, match="no widths fit"):
            read_sizes(options, arch, (), timed=False)
    with pytest.raises(NoWidthsError, match="no widths fit a budget of 1 params"):
        read_sizes(SizeOptions(budgets="latency=1ms,params=1"), arch, ())
