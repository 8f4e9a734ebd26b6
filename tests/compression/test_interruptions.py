"""Ctrl-C in a compression: it keeps what there is, and the same call continues to the digit."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import nsopt
from nsopt.cli.console import console
from nsopt.compute import checkpoint
from nsopt.reports.results import read_results
from tests.compression.test_candidates import SETTINGS, make_model, make_task
from tests.conftest import call_nsopt
from tests.latency.brief import measure_briefly

BUDGETS = ["macs=60%", "macs=30%"]
MODEL = make_model((20, 16, 12))
EPOCHS = 4


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    """Few passes are timed, and every step is written."""
    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        patch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
        yield


class Step(NamedTuple):
    """The `number`-th task of a name, after some of its steps."""

    task: str
    number: int = 1
    done: int = 0


class Steps(nsopt.Silent):
    """Lists the steps, and interrupts at one."""

    def __init__(self, stop: Step | None = None) -> None:
        self.stop, self.all, self.last = stop, list[Step](), Step("")

    def start(self, task: str, total: int) -> None:
        number = 1 + sum(step.task == task and not step.done for step in self.all)
        self._reach(Step(task, number))

    def advance(self, detail: str = "") -> None:
        self._reach(self.last._replace(done=self.last.done + 1))

    def _reach(self, step: Step) -> None:
        self.last = step
        self.all.append(step)
        if step == self.stop:
            raise KeyboardInterrupt


def run(out: Path, progress: nsopt.Silent | None = None, **changes: Any) -> nsopt.Compression:
    asked: dict[str, Any] = {"settings": SETTINGS, "epochs": EPOCHS, "out": out}
    asked |= {"progress": progress or nsopt.Silent(), "task": make_task(MODEL)}
    return nsopt.compress(MODEL, budgets=BUDGETS, **asked | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[nsopt.Compression, list[Step]]:
    """An uninterrupted compression, and its steps."""
    steps = Steps()
    return run(tmp_path_factory.mktemp("whole"), steps), steps.all


def list_stops(steps: list[Step]) -> dict[str, Step]:
    """Return a step of each kind."""
    tasks = [step.task for step in steps]
    fit = max(step for step in steps if step.task == "layers fitted")
    trainings = list(dict.fromkeys(task for task in tasks if " seed " in task))
    return {
        "ranking": Step("units ranked", done=4),
        "comparing": Step("macs=30%: widths by taylor"),
        "brief fit": Step("layers fitted", done=2),
        "fitting": fit._replace(done=2),
        "first training": Step(trainings[0], done=2),
        "last training": Step(trainings[-1], done=3),
    }


def assert_equal(found: nsopt.Compression, expected: nsopt.Compression) -> None:
    for budget in BUDGETS:
        own, other = found[budget], expected[budget]
        assert (own.method, own.widths, own.score) == (other.method, other.widths, other.score)
        assert (own.agreement, own.epochs) == (other.agreement, other.epochs)
        torch.testing.assert_close(own.model.state_dict(), other.model.state_dict(), rtol=0, atol=0)
    assert not found.is_interrupted


@pytest.mark.parametrize(
    "kind", ["ranking", "comparing", "brief fit", "fitting", "first training", "last training"]
)
def test_an_interrupted_call_continues_to_the_same_numbers(
    whole: tuple[nsopt.Compression, list[Step]], tmp_path: Path, kind: str
) -> None:
    expected, steps = whole
    stop = list_stops(steps)[kind]
    assert stop in steps
    progress, so_far = Steps(stop), None
    with suppress(KeyboardInterrupt):
        so_far = run(tmp_path, progress)
    assert stop in progress.all
    assert (so_far is None) == (kind in ("ranking", "comparing", "brief fit", "fitting")), (
        "it must end"
    )
    if so_far is not None:
        assert so_far.is_interrupted
        trained = {row.budget: row.epochs for row in so_far.rows() if row.planned}
        assert set(trained) == set(BUDGETS)
        planned = {"fitting": EPOCHS, "first training": 2}.get(kind, EPOCHS + 3)
        assert sum(trained.values()) == planned
    again = Steps()
    assert_equal(run(tmp_path, again), expected)
    if kind not in ("ranking", "brief fit"):
        assert len(again.all) < len(steps), "what was done is not done again"


def test_an_interruption_in_training_keeps_the_best_weights_so_far(
    whole: tuple[nsopt.Compression, list[Step]], tmp_path: Path
) -> None:
    expected, steps = whole
    last = list_stops(steps)["last training"]
    result = run(tmp_path, Steps(last))
    (budget,) = (network.budget for network in result.networks.values() if network.epochs == 3)
    own = result[budget]
    assert own.widths in {network.widths for network in expected.networks.values()}
    table = repr(result).splitlines()
    assert "trained" in table[0]
    assert sum(f"3 of {EPOCHS} epochs" in line for line in table) == 1
    stored = {row.budget: (row.epochs, row.planned) for row in result.results.networks}
    assert stored[budget] == (3, EPOCHS)
    page = result.report(tmp_path / "report").read_text()
    assert f"3 of {EPOCHS} epochs" in page
    file = tmp_path / "own.pt"
    nsopt.export(own.network, file, "state_dict")
    assert file.is_file()


def test_an_interruption_in_a_ruinous_training_keeps_the_fit(tmp_path: Path) -> None:
    class Stop(Steps):
        def advance(self, detail: str = "") -> None:
            super().advance(detail)
            if " seed " in self.last.task:
                raise KeyboardInterrupt

    def flee(outputs: Tensor, targets: Tensor) -> Tensor:
        return -functional.mse_loss(outputs, targets)

    task = nsopt.Task(make_task(MODEL).train, loss=flee)
    result = run(tmp_path, Stop(), task=task)
    assert result.is_interrupted
    assert sorted(network.epochs for network in result.networks.values()) == [0, 1]
    for own in result.networks.values():
        assert own.score == pytest.approx(own.agreement, abs=1), "as after the fit"


def test_full_fits_are_found(whole: tuple[nsopt.Compression, list[Step]], tmp_path: Path) -> None:
    """Interrupted at the start of a training, after its fit."""
    stop = list_stops(whole[1])["last training"]._replace(done=0)
    run(tmp_path, Steps(stop))
    assert list(tmp_path.rglob("*.fitted.pt"))
    again = Steps()
    run(tmp_path, again)
    assert "layers fitted" not in {step.task for step in again.all}
    assert "units ranked" not in {step.task for step in again.all}


STOPPING = """
import signal
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import nsopt

CALLS = []

def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))

def score(model):
    CALLS.append(model)
    if len(CALLS) == 5 and not Path("stopped").exists():
        Path("stopped").touch()
        signal.raise_signal(signal.SIGINT)
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return -float((model(inputs) - net()(inputs)).square().mean())

def task():
    inputs = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = net()(inputs)
    batches = list(zip(inputs.split(32), targets.split(32)))
    return nsopt.Task(batches, functional.mse_loss, score, name="own", score_name="closeness",
                      version=1)
"""


def test_the_command_exits_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trained network is scored twice, then a fit, and then epochs."""
    (tmp_path / "stopping.py").write_text(STOPPING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(console, "width", 200)
    command = ["compress", "--arch=stopping:net", "--task=stopping:task", "--budgets=macs=50%"]
    command += ["--epochs=3", "--out=out", "--device=cpu", "--precision=fp32"]
    done = call_nsopt(*command)
    assert done.returncode == 130, done.stdout + done.stderr
    assert "interrupted: the best weights so far follow; the same call continues" in done.stdout
    assert re.search(r"[12] of \d+ epochs", done.stdout)
    assert Path("out/macs-50-percent.pt").is_file()
    assert Path("out/report/index.html").is_file()
    again = call_nsopt(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert not re.search(r"\d of \d+ epochs", again.stdout)
    rows = read_results("sqlite:///out/study.db").networks
    assert all(row.epochs == row.planned for row in rows)
