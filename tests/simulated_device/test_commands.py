"""The commands, in this process, on a device."""

from pathlib import Path

import optuna
import pytest
import torch

import nsopt
from nsopt.latency import model
from nsopt.reports.results import read_results
from tests.conftest import call_nsopt
from tests.simulated_device.networks import small
from tests.simulated_device.simulation import SimulatedDevices

ARCH = "--arch=tests.simulated_device.networks:small"
TASK = (
    *(ARCH, "--data=digits", "--classes=2", "--per-class=40", "--ratios=0.5", "--device=cuda"),
    *("--epochs=1", "--batch-size=16", "--prune-every=1", "--filters-per-step=8"),
    *("--pretrain-epochs=1", "--seeds=1"),
)
EXPORT = ("--format=state_dict",)
METHODS = ["magnitude", "neuralscale", "uniform"]


@pytest.fixture(autouse=True)
def _few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_RANDOM", 2)
    monkeypatch.setattr(model, "_ROUNDS", 1)


def run(*arguments: str) -> None:
    done = call_nsopt(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout


def test_study_latency_and_export_run_on_cuda(cuda: SimulatedDevices, tmp_path: Path) -> None:
    """The training uses bfloat16, the default on a GPU."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run("study", *TASK, f"--methods={','.join(METHODS)}", f"--out={tmp_path}")
    run("latency", f"--storage={url}", ARCH, "--device=cuda", "--batch-size=3")
    results = read_results(url)
    assert sorted(results.outcomes["method"]) == METHODS
    (study,) = (name for name in optuna.get_all_study_names(url) if name.endswith("/magnitude"))
    taken = tmp_path / "network"
    run("export", f"--storage={url}", ARCH, f"--study={study}", f"--out={taken}", *EXPORT)
    model = nsopt.load_network(taken, arch=ARCH.partition("=")[2]).model
    assert {tensor.device for tensor in model.state_dict().values()} == {torch.device("cpu")}


def test_a_latency_model_is_learned_on_cuda(cuda: SimulatedDevices) -> None:
    arch = nsopt.trace(small(), torch.randn(2, 1, 32, 32))
    learned = nsopt.with_latency(arch, "cuda").cost("latency")
    assert learned(arch.base_widths) > 0
    assert cuda.places("wait")
