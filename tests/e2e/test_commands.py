"""The smaller commands, as a user calls them."""

import json
import os
import re
from pathlib import Path

import numpy as np
import optuna
import pytest

import nsopt
from nsopt import NsoptError, PowerLaw, get_architecture, solve_widths
from nsopt.cli.console import console
from nsopt.reports.results import read_results
from tests.conftest import call_nsopt
from tests.e2e.test_user_errors import assert_fails


def test_widths_prints_the_solved_widths_of_a_published_law(golden: Path) -> None:
    laws = golden / "vgg11-cifar10.laws.json"
    done = call_nsopt("widths", f"--law={laws}", "--ratios=0.25,2", "--json")
    rows = json.loads(done.stdout)
    arch = get_architecture("vgg11")
    law = PowerLaw.from_dict(json.loads(laws.read_text())[-1])
    assert [row["ratio"] for row in rows] == [0.25, 2]
    for row in rows:
        fit = solve_widths(law, arch.cost("params"), row["budget"], warn=False)
        assert row["widths"] == fit.widths.tolist()
        assert row["params"] == fit.cost <= row["budget"]
        assert row["macs"] == arch.cost("macs")(fit.widths)
        assert row["layers"] == list(arch.layer_names)


def test_widths_measures_no_milliseconds(golden: Path) -> None:
    law = f"--law={golden / 'vgg11-cifar10.laws.json'}"
    done = call_nsopt("widths", law, "--budgets=macs=20M,latency=5ms")
    assert_fails(done, "milliseconds are measured: give this budget to nsopt study")


def test_widths_rounds_the_law_of_an_iteration_at_a_budget_of_macs(golden: Path) -> None:
    laws = golden / "vgg11-cifar10.laws.json"
    options = ["--iteration=2", "--budgets=20M", "--metric=macs"]
    options += ["--multiple-of=8", "--min-width=16"]
    done = call_nsopt("widths", f"--law={laws}", *options, "--json")
    (row,) = json.loads(done.stdout)
    assert row["macs"] <= 20_000_000
    assert (np.array(row["widths"]) % 8 == 0).all()
    assert min(row["widths"]) >= 16
    table = call_nsopt("widths", f"--law={laws}", *options)
    assert " ".join(str(width) for width in row["widths"]) in table.stdout


def test_joint_budgets_are_met_and_the_table_names_the_binding_one(golden: Path) -> None:
    laws = golden / "vgg11-cifar10.laws.json"
    options = [f"--law={laws}", "--budgets=params=250k,macs=5M; params=250k,macs=50M; macs=5M"]
    done = call_nsopt("widths", *options, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["binding"] for row in rows] == ["macs", "params", None]
    assert rows[0]["budget"] == {"params": 250_000, "macs": 5_000_000}
    assert rows[0]["cost"] == {name: rows[0][name] for name in ("params", "macs")}
    assert rows[0]["macs"] <= 5_000_000
    assert rows[1]["params"] <= 250_000
    assert rows[0]["widths"] == rows[2]["widths"]
    table = " ".join(call_nsopt("widths", *options).stdout.split())
    assert "250,000 params" in table
    assert "binds: the budget that stops the network" in table


@pytest.mark.usefixtures("slim")
def test_widths_uses_the_law_of_a_stored_search(tmp_path: Path) -> None:
    options = ["--pretrain-epochs=0", "--prune-every=1", "--filters-per-step=50"]
    options += ["--batch-size=16", "--per-class=60"]
    done = call_nsopt("search", *options, "--device=cpu", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "conv8" in done.stdout
    again = call_nsopt("search", *options, "--device=cpu", f"--out={tmp_path}")
    assert "search iteration" not in again.stdout
    with pytest.raises(NsoptError, match="is a search alone: use nsopt widths"):
        read_results(f"sqlite:///{tmp_path / 'study.db'}")
    storage = f"--storage=sqlite:///{tmp_path / 'study.db'}"
    proposed = call_nsopt("widths", storage, "--ratios=0.1", "--json")
    (row,) = json.loads(proposed.stdout)
    arch = get_architecture("vgg11", in_channels=1)
    assert arch.cost("params")(row["widths"]) == row["params"] <= row["budget"]
    assert_fails(
        call_nsopt("widths", storage, "--iteration=1"),
        "--iteration does nothing without --law",
    )
    assert_fails(
        call_nsopt("widths", storage, "--arch=resnet18"),
        "the stored network is 'vgg11', not 'resnet18'",
    )


@pytest.mark.usefixtures("slim")
def test_study_uses_the_best_eta_of_a_named_tuning_study(tmp_path: Path) -> None:
    short = ["--filters-per-step=0.3", "--prune-every=1", "--batch-size=32", "--device=cpu"]
    short += ["--per-class=12"]
    tune = ("tune", "--over=eta", "--trials=4", *short, f"--out={tmp_path / 'tune'}")
    done = call_nsopt(*tune)
    assert done.returncode == 0, done.stderr
    (best,) = re.findall(r"best: eta (\S+):", done.stdout)
    storage = f"sqlite:///{tmp_path / 'tune' / 'study.db'}"
    tuned = f"--storage={storage} --tuned=vgg11-digits-12each-smoke-tune/eta"
    assert f"to use it: nsopt study with the same options and {tuned}" in done.stdout
    assert call_nsopt(*tune).stdout.count("from the budget,") == 0  # nothing was left to do
    assert_fails(call_nsopt("report", f"--storage={storage}"), "only tunings, which optuna-dash")
    name = "--name=vgg11-digits-12each-smoke-tune"
    shown = f"is a tuning: run optuna-dashboard {storage}"
    assert_fails(call_nsopt("report", f"--storage={storage}", name), shown)
    study = call_nsopt(
        *("study", "--methods=uniform", "--ratios=0.03", "--seeds=1", "--epochs=1"),
        *("--tuned=vgg11-digits-12each-smoke-tune/eta", f"--storage={storage}"),
        *(*short, f"--out={tmp_path / 'study'}"),
    )
    assert study.returncode == 0, study.stderr
    settings = read_results(storage).settings
    assert settings["eta"] == pytest.approx(float(best), rel=1e-3)


def test_widths_without_a_usable_law_fails(tmp_path: Path, golden: Path) -> None:
    text = tmp_path / "law.json"
    text.write_text("alpha")
    laws = golden / "vgg11-cifar10.laws.json"
    for options, part in (
        (["--law=nowhere.json"], "cannot read a law from nowhere.json"),
        ([f"--law={text}"], "is not JSON"),
        ([f"--law={laws}", "--storage=sqlite:///none.db"], "--law FILE or --storage URL, not both"),
        ([f"--law={laws}", "--arch=resnet18"], "8 layers and resnet18 has 17"),
        ([f"--law={laws}", "--iteration=3"], "has no law of iteration 3"),
        ([f"--law={laws}", "--budgets=9"], "no widths fit a budget of 9"),
        ([f"--storage=sqlite:///{tmp_path}/no.db"], "nothing is stored"),
    ):
        assert_fails(call_nsopt("widths", *options), part)


def test_data_commands_list_check_and_fetch(tmp_path: Path) -> None:
    listed = call_nsopt("data", "list").stdout
    for name in ("digits", "cifar10", "cifar100", "tiny-imagenet", "folder:PATH"):
        assert name in listed
    checked = call_nsopt("data", "check", "digits").stdout
    assert "1347 training, 450 test images, 10 classes, 1x32x32" in checked
    assert_fails(call_nsopt("data", "fetch", "digits"), "needs no download")
    done = call_nsopt("data", "fetch", "folder:photographs")
    assert_fails(done, "folder:photographs needs no download")
    assert_fails(call_nsopt("data", "fetch", "imagenet"), "did you mean 'tiny-imagenet'")
    missing = call_nsopt("data", "check", "cifar10", f"--data-dir={tmp_path}")
    assert_fails(missing, "put cifar-10-python.tar.gz")


SHORT = (
    *("--methods=uniform", "--ratios=0.03", "--seeds=1", "--epochs=2", "--per-class=20"),
    *("--device=cpu", "--precision=fp32"),
)


def test_commands_ignore_foreign_studies_in_a_storage(tmp_path: Path) -> None:
    name, storage = "vgg11-digits-20each-smoke", f"sqlite:///{tmp_path / 'study.db'}"
    assert call_nsopt("study", *SHORT, f"--out={tmp_path}").returncode == 0
    for foreign in ("team/exp", f"{name}/mine"):
        study = optuna.create_study(study_name=foreign, storage=storage)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    ours = optuna.load_study(study_name=f"{name}/uniform", storage=storage)
    own = ours.ask()
    ours.tell(own, (50.0, 3.0))
    for command in (
        ("study", *SHORT, f"--out={tmp_path}"),
        ("report", f"--storage={storage}", f"--out={tmp_path / 'report'}"),
        ("latency", f"--storage={storage}"),
        ("widths", f"--storage={storage}", "--method=uniform", "--ratios=0.1"),
        ("worker", f"--storage={storage}", f"--study={name}"),
        (
            *("export", f"--storage={storage}", f"--study={name}/uniform", "--ratio=0.03"),
            *("--format=state_dict", f"--out={tmp_path / 'best.pt'}"),
        ),
    ):
        done = call_nsopt(*command)
        assert done.returncode == 0, done.stderr
        assert "mine" not in done.stdout
    assert len(read_results(storage).outcomes) == 1
    unsearched = call_nsopt("widths", f"--storage={storage}", "--method=morphnet")
    assert_fails(unsearched, f"no search of {name} is stored")


def test_seeds_start_at_the_given_seed(tmp_path: Path) -> None:
    done = call_nsopt("study", *SHORT, "--seed=7", "--verbose", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "uniform 0.03x seed 7" in done.stdout
    assert "decay_after 0.333 0.667 0.833" in " ".join(done.stdout.split())
    assert read_results(f"sqlite:///{tmp_path / 'study.db'}").outcomes["seed"].tolist() == [7]


def test_the_newest_study_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("report", "latency", "widths"):
        assert_fails(call_nsopt(command), "no study is in runs/: give --storage")
    assert call_nsopt("study", *SHORT).returncode == 0
    folder = tmp_path / "runs" / "vgg11-digits-20each-smoke"
    (folder / "report" / "index.html").unlink()
    assert call_nsopt("report").returncode == 0
    assert (folder / "report" / "index.html").is_file()
    study = "--study=vgg11-digits-20each-smoke/uniform"
    export = ("export", study, "--ratio=0.03", "--format=state_dict", "--out=network.pt")
    assert call_nsopt(*export).returncode == 0
    done = call_nsopt("export", "--unchecked", "--format=pt2")
    assert done.stdout == f"exporting {study} --ratio=0.03\nnetwork.pt2\n"
    assert (tmp_path / "network.pt2").is_file()
    assert_fails(call_nsopt("export", "--ratio=0.03"), "choose a network of --study: give it, too")
    assert call_nsopt("latency", "--batch-size=1").returncode == 0
    (row,) = json.loads(call_nsopt("widths", "--method=uniform", "--ratios=0.03", "--json").stdout)
    assert row["widths"] == [1, 3, 7, 7, 15, 15, 15, 15]


def test_doctor_prints_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call_nsopt("doctor")
    assert done.returncode == 0, done.stderr
    found = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert found["nsopt"].strip() == nsopt.__version__
    assert found["newest study"].strip() == "no study is in runs/: give --storage"
    assert found["cache"].strip() == str(Path(os.environ["XDG_CACHE_HOME"]) / "nsopt")
    assert found["extra dashboard"].strip() == "installed"


def test_tables_fit_a_narrow_terminal(
    tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 60)
    law = f"--law={golden / 'vgg11-cifar10.laws.json'}"
    for command in (
        ("widths", law, "--ratios=0.25,2"),
        ("study", *SHORT, f"--out={tmp_path}"),
        ("latency", f"--storage=sqlite:///{tmp_path / 'study.db'}"),
    ):
        done = call_nsopt(*command)
        assert done.returncode == 0, done.stderr
        rows = [line for line in done.stdout.splitlines() if line.startswith(" ")]
        assert max(map(len, rows)) <= 60, done.stdout
