"""Sessions: their presets, their workspace and their worker processes."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nsopt.compute.checkpoint import Checkpoint
from nsopt.errors import NsoptError
from nsopt.files import is_being_done
from nsopt.session import processes
from nsopt.session.presets import get_preset, override
from nsopt.session.processes import run_local_workers
from nsopt.session.workspace import Workspace
from nsopt.settings import differences
from tests.study.test_comparison import Listener


def test_clearing_leaves_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, sync = Workspace("sqlite://", tmp_path), os.fsync
    path = workspace.checkpoints("study") / "network.pt"
    old = path.with_name("old.pt")
    Checkpoint(old, {}).save({})

    def clear_meanwhile(file: int) -> None:
        if not path.exists():
            workspace.clear("study")
        sync(file)

    monkeypatch.setattr(os, "fsync", clear_meanwhile)
    Checkpoint(path, {}).save({"epoch": 3})
    assert not old.exists()
    assert Checkpoint(path, {}).load(torch.device("cpu")) == {"epoch": 3}


def test_clearing_deletes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    workspace = Workspace("sqlite://", tmp_path)
    path = workspace.checkpoints("study") / "network.pt"
    ended = 2**22 + 1  # above Linux' largest number
    unfinished = path.with_name(f".nsopt-abcdefgh.{platform.node()}.{ended}.part")
    unfinished.mkdir(parents=True)
    workspace.clear("study")
    assert not path.parent.exists()


STARTER = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it may be ignored here
import nsopt.session.processes as processes
from nsopt.progress import Silent
class Told(Silent):
    def message(self, text):
        print(text, flush=True)
processes.WORKER = sys.executable, "-c", sys.argv[1], sys.argv[2]
with processes.run_local_workers([[]], "sqlite:///none.db", Told()):
    time.sleep(60)
"""
WORKER = """
import sys, time
from pathlib import Path
from nsopt.files import hold_lock
from nsopt.session.processes import end_with_starter
end_with_starter()
folder = Path(sys.argv[1])
with hold_lock(folder):
    print("working", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_workers_end_when_their_command_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, WORKER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"working\n"
        starter.send_signal(number)
    assert starter.returncode == -number
    deadline = time.monotonic() + 10
    while is_being_done(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_whose_command_has_ended_does_not_start() -> None:
    command = [sys.executable, "-m", "nsopt", "worker", "--child", "--study=none"]
    storage = os.environ | {processes.STORAGE_VARIABLE: "sqlite:///none.db"}
    how: Any = {"env": storage, "stdin": subprocess.DEVNULL, "capture_output": True}
    done = subprocess.run(command, **how, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_worker_that_is_still_busy_is_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS_TO_END", 0.5)
    busy = (sys.executable, "-c", "import time; time.sleep(600)")
    monkeypatch.setattr(processes, "WORKER", busy)
    listener, started = Listener(), time.monotonic()
    with run_local_workers([["one"], ["two"]], "sqlite:///none.db", listener):
        pass
    assert time.monotonic() - started < 5
    told = "nsopt ends a worker: other processes have already done its work"
    assert listener.messages == [told] * 2


def test_the_paper_preset_follows_the_papers_protocol() -> None:
    preset = get_preset("paper")
    search, training = preset.settings.search, preset.settings.training
    assert preset.settings.ratios == (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    assert preset.settings.seeds == 5
    assert (search.pretrain_epochs, search.prune_every, search.filters_per_step) == (10, 50, 10)
    assert (search.iterations, search.keep_fraction, search.small_width) == (15, 0.05, 10)
    assert (search.lr, search.prune_lr) == (0.1, 0.01)
    assert (search.prune_lr_divisor, search.prune_lr_epochs) == (1.5, 10)
    assert (search.batch_size, search.momentum, search.weight_decay) == (256, 0.5, 5e-4)
    assert (training.epochs, training.batch_size, training.lr) == (300, 128, 0.1)
    assert (training.momentum, training.weight_decay) == (0.5, 5e-4)
    assert (training.milestones, training.decay) == ([100, 200, 250], 0.1)
    assert preset.settings.magnitude_epochs == 300
    assert (preset.settings.fine_tune_epochs, preset.settings.fine_tune_lr) == (40, 0.001)


def test_the_paper_preset_for_tiny_imagenet_follows_the_papers_protocol() -> None:
    preset = get_preset("paper", "tiny-imagenet")
    assert preset.settings.ratios == (0.25, 0.5, 0.75, 1.0)
    assert preset.settings.search.prune_every == 100
    assert preset.settings.training.epochs == 150
    assert preset.settings.training.milestones == [50, 100]
    assert preset.settings.magnitude_epochs == 150
    assert (preset.settings.fine_tune_epochs, preset.settings.fine_tune_lr) == (20, 0.001)
    assert get_preset("paper", "tiny-imagenet-100-32px") is get_preset("paper")


def test_the_fast_preset_trains_like_paper_and_searches_like_quick() -> None:
    fast = get_preset("fast").settings
    assert fast.search == get_preset("quick").settings.search
    paper = get_preset("paper").settings.training
    assert fast.training.updated(val_fraction=paper.val_fraction) == paper
    tiny = get_preset("fast", "tiny-imagenet").settings
    assert tiny.search == fast.search
    assert tiny.training.milestones == [50, 100]


@pytest.mark.parametrize("name", ["smoke", "tiny", "quick", "fast", "paper"])
def test_settings_survive_json(name: str) -> None:
    settings = get_preset(name).settings
    stored = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert differences(settings.model_dump(mode="json"), stored) == []
    assert type(settings)(**stored) == settings.updated(ratios=(), seeds=1)


@pytest.mark.parametrize("unused", [{"multiple_of": 8}, {"min_width": {"macs": 2}}, {"start": 1}])
def test_algorithm_3_neither_rounds_nor_limits_widths(unused: dict[str, Any]) -> None:
    with pytest.raises(NsoptError, match=r"Algorithm 3 .*: leave eta"):
        override(get_preset("smoke").settings, {"eta": 3.0} | unused)


def test_differences_name_every_setting_that_differs() -> None:
    ours, theirs = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 5, "d": 3}, "e": 6}
    assert differences(ours, theirs) == ["b.c: 2 now, 5 there", "e: None now, 6 there"]
    assert differences(ours, ours) == []


def test_the_default_preset_is_smoke_for_digits_and_quick_for_other_data() -> None:
    assert get_preset(None, "digits") is get_preset("smoke")
    assert get_preset(None, "cifar100") is get_preset(None, "folder:photos") is get_preset("quick")
    assert get_preset(None, "tiny-imagenet") is get_preset("quick", "tiny-imagenet")
