"""Budgets as the options of a command give them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nsopt
from nsopt.cli.options import SizeOptions
from nsopt.cli.preparation import announce, read_sizes
from nsopt.errors import NoWidthsError
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.metric import LATENCY, PARAMS
from nsopt.study.plan import Requests, Size, make_sizes, read_requests
from tests.conftest import call_nsopt
from tests.study.test_comparison import SETTINGS


def ask(options: SizeOptions, usual: Sequence[float] = ()) -> Requests:
    ratios, budgets = read_sizes(options)
    return read_requests(options.metric, ratios or usual, budgets)


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
def test_equal_budgets_count_once(narrow: Architecture, options: SizeOptions, count: int) -> None:
    sizes = make_sizes(narrow, ask(options, (0.25, 0.5, 0.25)), **options.rounding)
    assert len(sizes) == count
    assert sizes[0].ratio in (0.25, None)


def test_tasks_have_batches(narrow: Architecture, capsys: pytest.CaptureFixture[str]) -> None:
    task = nsopt.Task([(torch.zeros(2, 3), torch.zeros(2))], name="pitch")
    announce(narrow, task, SETTINGS, "why")
    assert "training: 1 epoch, batches of the task, learning rate" in capsys.readouterr().out
    announce(narrow, replace(task, trainer=lambda model, *_: model), SETTINGS, "why")
    assert "training: 1 epoch, by the trainer of the task\n" in capsys.readouterr().out


_OWN = """
import torch
from torch import nn
import nsopt

def make_network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def make_task():
    x = torch.zeros(2, 4)
    train = lambda model, task, context: model
    return nsopt.Task([(x, x[:, :2])], score=lambda model: 0.5, trainer=train, name="own")
"""


def test_trainers_take_no_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with_trainer.py").write_text(_OWN)
    monkeypatch.chdir(tmp_path)
    names = "--task=with_trainer:make_task", "--arch=with_trainer:make_network"
    place = "--budgets=macs=50%", f"--out={tmp_path / 'out'}"
    done = call_nsopt("compress", *names, *place, "--averaging=0.9")
    assert done.returncode == 2
    assert "--averaging does nothing with a trainer of your own: leave it out" in done.stderr
    assert not (tmp_path / "out").exists()


def test_predicted_milliseconds_refuse_no_budget_of_timed_networks(narrow: Architecture) -> None:
    arch = narrow.with_latency(LinearCost("latency", narrow.cost("macs"), 1.0))
    short = SizeOptions(budgets="1ms", metric="latency")
    both = SizeOptions(budgets="latency=1ms,params=20k")
    for options in (short, both):
        asked = ask(options)
        assert len(make_sizes(arch, asked, None, None)) == 1
        with pytest.raises(NoWidthsError, match="no widths fit"):
            make_sizes(arch, asked, None, None, timed=False)
    asked = ask(SizeOptions(budgets="latency=1ms,params=1"))
    with pytest.raises(NoWidthsError, match="no widths fit a budget of 1 params"):
        make_sizes(arch, asked, None, None)


def test_a_percentage_is_a_share_of_what_the_base_network_costs(narrow: Architecture) -> None:
    arch = narrow.with_latency(LinearCost("latency", narrow.cost("macs"), 1e-6))
    params, milliseconds = (arch.cost(name)(arch.base_widths) for name in ("params", "latency"))
    asked = ask(SizeOptions(budgets="50%,12.5%"))
    sizes = Size(PARAMS, int(params / 2)), Size(PARAMS, int(params / 8))
    assert make_sizes(arch, asked, None, None) == sizes
    timed = ask(SizeOptions(budgets="50%", metric="latency"))
    assert all(size.is_timed for size in timed)
    assert make_sizes(arch, timed, None, None) == (Size(LATENCY, milliseconds / 2),)
