"""One task that is no image through everything: sound, searched, compared, tuned, compressed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import nsopt
from tests.conftest import call_nsopt
from tests.e2e.test_task import NAMES, SOUND
from tests.study.test_any_task import SETTINGS as SMOKE
from tests.study.test_any_task import Pitch, make_sounds, make_task, right_pitches


def take_time(model: torch.nn.Module, sounds: torch.Tensor) -> float:
    """Milliseconds of a device that computes what networks store."""
    assert sounds.shape == (16, 256)
    return sum(parameter.numel() for parameter in model.parameters()) / 1000


def test_sound_is_searched_compared_compressed_reported_and_exported(tmp_path: Path) -> None:
    task = make_task(distance=lambda one, other: (one - other).square().mean(1))
    torch.manual_seed(0)
    arch = nsopt.trace(Pitch(), task.inputs)
    law = nsopt.search(arch, task, SMOKE.search).law
    assert law.layers == 2

    study = nsopt.compare(arch, task, ["uniform", "neuralscale"], [0.5], seeds=1, settings=SMOKE)
    assert "right pitches (%)" in study.report(tmp_path / "study").read_text()

    trained = nsopt.train(arch, arch.base_widths, task, SMOKE.training).model
    settings = nsopt.get_preset("compress").settings
    changed: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
    training = settings.training.updated(least_steps=None, distillation=0.5, **changed)
    result = nsopt.compress(
        trained,
        task,
        ["latency=50%"],
        epochs=1,
        settings=settings.updated(training=training, search=SMOKE.search, runtime=take_time),
        out=tmp_path / "small",
    )
    small = result["latency=50%"]
    assert small.latency is not None
    assert result.dense.latency is not None
    assert 0.4 * result.dense.latency < small.latency <= 0.5 * result.dense.latency
    assert small.score == right_pitches(small.model)
    assert "latency=50%" in result.report(tmp_path / "report").read_text()
    nsopt.export(small.network, tmp_path / "small.onnx", inputs=task)
    predict = nsopt.load_exported(tmp_path / "small.onnx", "onnx")
    sounds, _ = make_sounds(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(predict(sounds), small.model(sounds), rtol=1e-3, atol=1e-4)


def test_pretraining_of_a_task_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sound_task.py").write_text(SOUND)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = call_nsopt(
        *("tune", *NAMES, "--preset=smoke", "--pretrain-epochs=0,1", "--seeds=1", "--epochs=1"),
        *("--prune-every=1", "--filters-per-step=4", "--out=out"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pitch" in done.stdout
    (tuned,) = re.findall(r"--tuned=\S+", done.stdout)
    done = call_nsopt("study", *NAMES, tuned, "--storage=sqlite:///out/study.db", "--start=x")
    assert done.returncode == 2
    assert "--start leaves out the pre-training that --tuned sets: leave one out" in done.stderr
