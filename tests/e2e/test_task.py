"""A task of the user on the command line: sound, which nsopt knows nothing about."""

import errno
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from nsopt.session import processes
from tests.conftest import call_nsopt
from tests.e2e.test_user_errors import assert_fails
from tests.forked import ForkedWorker

SOUND = """
import torch
import nsopt
from torch import nn
from torch.nn import functional

class Pitch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(1, 24, 16, 4), nn.BatchNorm1d(24), nn.ReLU(),
                                    nn.Conv1d(24, 24, 8, 2), nn.BatchNorm1d(24), nn.ReLU())
        self.out = nn.Linear(24, 4)
    def forward(self, sound):
        return self.out(self.layers(sound[:, None]).mean(2))

def net():
    torch.manual_seed(3)
    return Pitch()

def make_sounds(count, seed):
    random = torch.Generator().manual_seed(seed)
    pitch = torch.randint(4, (count,), generator=random)
    time = torch.arange(256) / 256
    return torch.sin(6.283 * (time * 8 * (1 + pitch[:, None]))), pitch

@torch.no_grad()
def right(model):
    sounds, pitch = make_sounds(64, 1)
    return 100 * float((model(sounds).argmax(1) == pitch).float().mean())

def task():
    sounds, pitch = make_sounds(128, 0)
    batches = list(zip(sounds.split(16), pitch.split(16)))
    return nsopt.Task(batches, functional.cross_entropy, right, name="pitch",
                      score_name="right pitches (%)")

def photo_net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))

def photos():
    return nsopt.Task(nsopt.load_images("photos", 16).split(16), name="photos")

def broken():
    raise KeyError("no sounds")

def leave():
    raise SystemExit(3)

def spoilt():
    model = net()
    model.out.weight.data.fill_(float("nan"))
    return model

def number():
    return 5
"""
NAMES = "--arch=sound_task:net", "--task=sound_task:task", "--device=cpu", "--precision=fp32"
FEW = "--prune-every=1", "--filters-per-step=4"


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sound_task.py").write_text(SOUND)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(processes, "_start", ForkedWorker)


def test_two_workers_compare_methods_on_a_task_of_the_user() -> None:
    options = (
        "--methods=uniform,neuralscale",
        "--ratios=0.5",
        "--seeds=2",
        "--epochs=1",
        "--out=out",
    )
    done = call_nsopt("study", *NAMES, *FEW, *options, "--preset=smoke", "--workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right pitches (%)" in done.stdout
    export = shlex.split(done.stdout.splitlines()[-2].removeprefix("export:"))
    written = call_nsopt(*export[1:])
    assert written.returncode == 0, written.stderr
    assert Path("network.onnx").is_file()
    table = pd.read_csv("out/report/outcomes.csv")
    assert sorted(table["method"]) == ["neuralscale"] * 2 + ["uniform"] * 2
    assert table["score"].between(0, 100).all()
    again = call_nsopt("report", "--storage=sqlite:///out/study.db", "--out=again")
    assert again.returncode == 0, again.stderr
    first, second = (Path(folder, "index.html").read_text() for folder in ("out/report", "again"))
    assert second == first


def test_two_workers_compress_a_network_of_a_task_and_every_command_reads_it() -> None:
    options = "--epochs=3", "--averaging=0", "--budgets=macs=50%", "--out=out", "--workers=2"
    done = call_nsopt("compress", *NAMES, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "macs-50-percent.onnx, macs-50-percent.pt2, macs-50-percent.pt" in done.stdout
    again = call_nsopt("compress", *NAMES, *options)
    assert again.stdout.splitlines()[-4:] == done.stdout.splitlines()[-4:]
    assert "finished before" not in again.stdout, "the task may read other data"
    export = shlex.split(done.stdout.splitlines()[-1].removeprefix("export:"))
    assert "--budget=macs=50%" in export
    assert any("-compress/" in word for word in export), "others may be in the same storage"
    written = call_nsopt(*export[1:])
    assert written.returncode == 0, written.stderr
    assert Path("network.onnx").stat().st_size == Path("out/macs-50-percent.onnx").stat().st_size
    state = torch.load("out/macs-50-percent.pt", weights_only=True)["state"]
    assert state["layers.0.weight"].shape[0] < 24
    assert Path("out/report/index.html").is_file()
    stored = "--storage=sqlite:///out/study.db", *NAMES[:2]
    timed = call_nsopt("latency", *stored, "--batch-size=4", "--device=cpu")
    assert timed.returncode == 0, timed.stderr
    assert "Trained network" in timed.stdout
    found = call_nsopt("widths", *stored, "--budgets=20k", "--metric=macs", "--json")
    assert_fails(found, "no search of sound_task:net-pitch-compress is stored")
    written = call_nsopt("export", *stored, "--out=again.pt2", "--budget=100%")
    assert written.returncode == 0, written.stderr
    assert "the outputs of the file differ from PyTorch's by" in written.stdout
    for command in (["export"], ["worker", "--study=net"]):
        ignored = call_nsopt(*command, *stored, "--data=folder:photos")
        assert_fails(ignored, "--data does nothing with --task, which takes")
    without = call_nsopt("export", *stored[:1], "--out=again.pt2")
    assert_fails(without, "is of a task of yours: give its function as --task")


def test_a_folder_of_images_without_classes_is_enough_without_training() -> None:
    random = np.random.default_rng(0)
    Path("photos").mkdir()
    for number in range(40):
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")
    named = "--arch=sound_task:photo_net", "--task=sound_task:photos"
    options = "--epochs=0", "--budgets=macs=50%", "--out=out", "--workers=2", "--device=cpu"
    done = call_nsopt("compress", *named, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agreement with the trained network (%)" in done.stdout
    page = Path("out/report/index.html").read_text()
    assert "fitted layer after layer, without training." in page
    assert "short protocol" not in page
    export = shlex.split(done.stdout.splitlines()[-1].removeprefix("export:"))
    written = call_nsopt(*export[1:])
    assert written.returncode == 0, written.stderr
    assert Path("network.onnx").is_file()


def test_pretraining_of_a_task_is_tuned() -> None:
    done = call_nsopt(
        *("tune", *NAMES, "--preset=smoke", "--pretrain-epochs=0,1", "--seeds=1", "--epochs=1"),
        *(*FEW, "--out=out"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pitch" in done.stdout
    (tuned,) = re.findall(r"--tuned=\S+", done.stdout)
    done = call_nsopt("study", *NAMES, tuned, "--storage=sqlite:///out/study.db", "--start=x")
    assert_fails(done, "--start leaves out the pre-training that --tuned sets: leave one out")


def test_a_full_disk_ends_a_compression_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    options = "--budgets=macs=50%", "--epochs=1", "--averaging=0", "--out=out"
    done = call_nsopt("compress", *NAMES, *options)
    assert_fails(done, "the disk is full: make room and run the same command again")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch=vgg11"], "vgg11 is a network of images: with --task name a function of yours"),
        (["--task=sound_task:missing"], "cannot import the function 'sound_task:missing'"),
        (["--task=sound_task:broken"], "sound_task:broken makes no task (KeyError: 'no sounds')"),
        (["--task=sound_task:leave"], "sound_task:leave makes no task (SystemExit: 3)"),
        (["--arch=sound_task:spoilt"], "out.weight of the traced network has values that are NaN"),
        (["--seed=4294967296"], "--seed 4294967296: input should be less than or equal to"),
        (["--data=cifar10"], "--data does nothing with --task, which takes"),
        (["--image-size=16"], "--image-size does nothing with --task, which takes"),
        (["--batch-size=16"], "--batch-size does nothing with --task, which takes"),
        (["--resized-crop=0.5"], "--resized-crop does nothing with --task, which takes"),
        (["--task=sound_task:number"], "sound_task:number returns a int, not an nsopt.Task"),
    ],
)
def test_a_wrong_task_is_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    named = {word.split("=")[0]: word for word in [*NAMES, *options]}
    done = call_nsopt("study", *named.values(), "--out=out")
    assert_fails(done, message)
    assert not (tmp_path / "out").exists()
