"""`nsopt compress` on bad input: one line, exit code 2, nothing written."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import optuna
import pytest
import torch
from optuna import get_all_study_names
from optuna_dashboard import get_note

from nsopt import NsoptError, get_architecture
from nsopt.cli.compress import _export, _print_answer
from nsopt.cli.console import console
from nsopt.compression.fine_tuning import FineTuning
from nsopt.compression.pipeline import _find_best
from nsopt.compression.result import Compressed
from nsopt.deployment.kept import KeptNetwork, load_network
from nsopt.reports.results import read_results
from nsopt.scaling.metric import PARAMS, Budget, Limit
from nsopt.session.workspace import Workspace
from tests.conftest import call_nsopt, first_digits
from tests.deployment.test_artifacts import make_network
from tests.e2e.test_user_errors import assert_fails


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights of MobileNetV2 for digits, written by torch.save."""
    file = tmp_path_factory.mktemp("weights") / "trained.pt"
    arch = get_architecture("mobilenetv2", in_channels=1)
    torch.save(arch.build(arch.base_widths).state_dict(), file)
    return file


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--weights=missing.pt"], ["cannot read weights from missing.pt"]),
        (["--arch=vgg11"], ["the weights of another network than vgg11", "is missing there"]),
        (["--budgets=macs=50"], ["no widths fit a budget of 50 MACs", "a share is macs=50%"]),
        (["--multiple-of=x"], ["--multiple-of 'x' is not a width: write 8"]),
        (["--mean=0.5"], ["give --mean and --std, each with a number for every channel (1)"]),
        (["--mean=a", "--std=1"], ["--mean 'a': write numbers"]),
        (["--mean=0.5", "--std=0"], ["std must be above 0"]),
        (["--mean=0.5", "--std=nan"], ["std must be above 0, and finite"]),
        (["--lr=inf"], ["--lr inf: input should be a finite number"]),
        (["--out=/proc/nowhere"], ["cannot write to /proc/nowhere", "--out"]),
    ],
)
def test_invalid_options_fail_before_anything_runs(
    weights: Path, tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    usual = {"--weights": str(weights), "--budgets": "macs=50%", "--arch": "mobilenetv2"}
    usual |= {"--out": str(tmp_path / "out"), "--device": "cpu", "--precision": "fp32"}
    usual |= dict(option.split("=", 1) for option in options)
    given = (f"{name}={value}" for name, value in usual.items())
    assert_fails(call_nsopt("compress", *given), *parts)
    assert not (tmp_path / "out").exists()


def test_the_export_of_compress_replaces_a_symbolic_link(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    folder.mkdir()
    (folder / "macs-50-percent.pt").symlink_to(victim)
    compressed = SimpleNamespace(budget="macs=50%", network=make_network(50.0))
    asked = cast(Compressed, compressed), folder, get_architecture("vgg11"), first_digits(2, 2)
    assert _export(*asked, []) == "macs-50-percent.pt"
    assert victim.read_text() == "precious"
    (file,) = folder.iterdir()
    assert not file.is_symlink()
    assert load_network(file).arch == "vgg11"


def test_the_export_of_compress_writes_only_what_is_missing_beside_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(network: KeptNetwork, path: Path, form: str, *_: object) -> None:
        written.append(form)
        if form in broken:
            raise NsoptError("why")
        path.write_text("whole")

    written, broken, forms = list[str](), set[str](), ["onnx", "pt2"]
    monkeypatch.setattr("nsopt.cli.compress._export_checked", write)
    compressed = SimpleNamespace(budget="macs=50%", network=make_network(50.0))
    asked = cast(Compressed, compressed), tmp_path, get_architecture("vgg11"), first_digits(2, 2)
    file, names = tmp_path / "macs-50-percent.onnx", "macs-50-percent.pt2, macs-50-percent.pt"
    for again in (forms, ["onnx"], ["onnx"]):
        for _ in range(2):
            assert _export(*asked, forms) == f"{file.name}, {names}"
            assert file.read_text() == "whole"
        assert written == again
        written.clear()
        file.unlink()
    broken.add("onnx")
    assert _export(*asked, forms) == f"(no onnx: why), {names}"
    assert not file.exists()


def test_the_error_of_failed_trainings_hides_the_password(tmp_path: Path) -> None:
    place = Workspace("postgresql://me:sesame@h/d", tmp_path)
    session = SimpleNamespace(subject=None, workspace=place)
    budget = Budget("params=1", (Limit(PARAMS, 1),))
    runner = cast(FineTuning, SimpleNamespace(session=session))
    with pytest.raises(NsoptError, match=r"succeeded: see postgresql://me:\*\*\*@h/d$"):
        _find_best(runner, {}, budget, {}, interrupted=False)


TRAINED = """
import torch
from torch import nn

def net():
    torch.manual_seed(3)
    layers = nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
"""


def test_users_return_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trained_nets.py").write_text(TRAINED)
    options = (
        *("--arch=trained_nets:net", "--budgets=macs=50%", "--out=out", "--per-class=30"),
        *("--epochs=1", "--distillation=0", "--device=cpu"),
    )
    done = call_nsopt("compress", *options)
    assert done.returncode == 0, done.stderr
    assert "images normalised by --mean 0.3" in done.stdout
    assert "macs-50-percent.onnx" in done.stdout
    kept = torch.load(next(tmp_path.glob("out/trained-*.pt")), weights_only=True)["state_dict"]
    module = import_module("trained_nets").net()
    torch.testing.assert_close(kept, module.state_dict(), rtol=0, atol=0)
    settings = read_results(f"sqlite:///{tmp_path / 'out' / 'study.db'}").settings["training"]
    assert (settings["distillation"], settings["averaging"]) == (None, 0.99)
    url = "sqlite:///out/study.db"
    studies = [optuna.load_study(study_name=name, storage=url) for name in get_all_study_names(url)]
    notes = map(get_note, studies)
    assert sum("no network is trained to convergence" in note for note in notes) >= 2
    again = call_nsopt("report", "--storage=sqlite:///out/study.db", "--out=again")
    assert again.returncode == 0, again.stderr
    first, second = (Path(folder, "index.html").read_text() for folder in ("out/report", "again"))
    assert second == first
    (weights,) = tmp_path.glob("out/trained-*.pt")
    again = call_nsopt("compress", *options, f"--weights={weights}")
    assert again.stdout.splitlines()[-4:] == done.stdout.splitlines()[-4:], again.stderr


def test_built_in_networks_need_a_file_of_weights() -> None:
    done = call_nsopt("compress", "--arch=vgg11", "--budgets=macs=50%")
    assert_fails(done, "give the file with the trained weights of vgg11 as --weights")


def test_without_training_its_options_are_refused() -> None:
    command = "compress", "--arch=vgg11", "--budgets=macs=50%", "--epochs=0"
    for option in ("--lr=0.1", "--averaging=0.5"):
        name = option.partition("=")[0]
        done = call_nsopt(*command, option)
        assert_fails(done, f"{name} does nothing with --epochs 0: leave it out")


@pytest.mark.parametrize(("metric", "cost"), [("latency", "11.6M"), ("params", "339k")])
def test_a_table_fits_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], metric: str, cost: str
) -> None:
    """It keeps what the budgets limit."""
    row = {"widths by": "fit", "agreement %": "81.5", "raw pitch accuracy (%)": "82.1"}
    row |= {"test": "80", "ms": "382.38 (0.31x)", "params": "339k (0.70x)", "files": "a.pt"}
    row |= {"MACs": "11.6M (0.32x)"}
    monkeypatch.setattr(console, "width", 72)
    budget = f"{metric}=50%"
    _print_answer("pitch", [{"budget": name, **row} for name in ("100%", budget)], [])
    lines = capsys.readouterr().out.splitlines()
    assert f"{budget}: a.pt" in lines
    (shown,) = (line for line in lines if line.split()[:1] == [budget])
    assert shown.split() == [budget, "fit", "82.1", "80", "382.38", cost]
