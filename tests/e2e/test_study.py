"""The study command in separate processes, on a slim VGG11 and digits."""

import json
import platform
import re
import shlex
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import optuna_dashboard
import pandas as pd
import pytest

from nsopt.cli.interruption import REST
from nsopt.reports.results import read_results
from nsopt.storage.opening import sqlite_url
from tests.conftest import call_nsopt, free_port
from tests.e2e.test_user_errors import assert_fails
from tests.forked import Forked
from tests.slim import run_impatiently, slim_vgg11

SHORT = (
    *("--methods=uniform,neuralscale", "--ratios=0.08,0.12", "--seeds=2", "--epochs=1"),
    "--per-class=12",
    *("--pretrain-epochs=0", "--prune-every=1", "--filters-per-step=100", "--batch-size=16"),
    *("--precision=fp32", "--device=cpu"),
)
POINTS = 8


@pytest.fixture(scope="module", autouse=True)
def _slim() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        slim_vgg11(patch)
        yield


def start(*arguments: str, module: str = "nsopt") -> Forked:
    """Start the command in a process of its own."""
    return Forked(run_impatiently, module, arguments)


def run_short(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    done = start(*SHORT, f"--out={out}", *more, module="nsopt.study").finish()
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def read_outcomes(out: Path) -> pd.DataFrame:
    """Return the outcomes of a run, without measured times."""
    results = read_results(sqlite_url(out / "study.db"))
    columns = ["method", "budget", "seed", "widths", "score", "test_score", "params"]
    frame = results.outcomes[columns].sort_values(["method", "budget", "seed"])
    return frame.reset_index(drop=True)


def read_law(out: Path) -> tuple[list, dict]:
    """Return the record and the law of a run."""
    (iteration,) = read_results(sqlite_url(out / "study.db")).searches["search"]
    return iteration.record.widths.tolist(), iteration.law.to_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    done = run_short(out)
    assert f"report:  {out / 'report' / 'index.html'}" in done.stdout
    assert "neuralscale 0.12x seed 1: validation" in done.stdout
    return out


def test_the_command_writes_a_storage_a_report_and_networks(whole: Path) -> None:
    names = {path.name for path in (whole / "report").iterdir()}
    written = ("outcomes", "summary", "epochs", "latencies", "record", "laws")
    tables = {f"{name}.csv" for name in written}
    assert names == {"index.html"} | tables
    assert len(read_outcomes(whole)) == POINTS
    assert {path.name for path in whole.iterdir()} == {"study.db", "report", "artifacts"}


def test_a_second_call_repeats_nothing(whole: Path, tmp_path: Path) -> None:
    before = read_outcomes(whole)
    done = run_short(whole)
    assert "validation" not in done.stdout.split("mean ±")[0]
    pd.testing.assert_frame_equal(read_outcomes(whole), before)
    *_, export, _ = done.stdout.splitlines()
    *command, out = shlex.split(export.removeprefix("export:  nsopt "))
    assert out == "--out=network.onnx"
    out = f"--out={tmp_path / 'network.pt'}"
    assert call_nsopt(*command, out, "--format=state_dict").returncode == 0


@pytest.mark.parametrize("kind", ["--format=pt2", "--format=state_dict"])
def test_export_writes_a_network_in_every_format(kind: str, whole: Path, tmp_path: Path) -> None:
    storage, out = f"--storage=sqlite:///{whole / 'study.db'}", tmp_path / "mine" / "network"
    study = "--study=vgg11-digits-12each-smoke/neuralscale"
    done = call_nsopt("export", storage, study, "--ratio=0.12", kind, f"--out={out}")
    assert done.returncode == 0, done.stderr
    of_file, stored = re.findall(r"\d+\.\d\d", done.stdout)[:2]
    best = read_results(f"sqlite:///{whole / 'study.db'}").outcomes.query(
        "method == 'neuralscale' and ratio == 0.12"
    )
    assert of_file == stored == f"{best.loc[best['score'].idxmax(), 'test_score']:.2f}"
    assert [path.name for path in out.parent.iterdir()] == ["network"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "choose a network with --ratio, --budget or --metric: stored are 0.08x"),
        (("--ratio=0.5",), "stored are 0.08x, 0.12x"),
        (
            ("--study=vgg11-digits-12each-smoke/uniforn",),
            "did you mean 'vgg11-digits-12each-smoke/uniform'",
        ),
        (
            ("--study=X",),
            "'X': known are vgg11-digits-12each-smoke/neuralscale, "
            "vgg11-digits-12each-smoke/uniform",
        ),
        (
            ("--study=vgg11-digits-12each-smoke/search",),
            "no network of vgg11-digits-12each-smoke/search is stored: run the study first",
        ),
        (
            ("--ratio=0.12", "--artifacts=elsewhere"),
            "elsewhere does not contain the best network of vgg11-digits-12each-smoke/uniform, "
            f"stored at {platform.node()}:",
        ),
        (("--storage=sqlite:///nothing.db",), "nothing is stored at sqlite:///nothing.db"),
        (("--ratio=0.12", "--data=folder:nowhere"), "nowhere"),
        (("--format=onx",), "onnx"),
        (("--metric=memory",), "there is no metric memory: limit params, which take 4 bytes each"),
    ],
)
def test_an_invalid_export_fails_and_writes_nothing(
    options: tuple[str, ...], message: str, whole: Path, tmp_path: Path
) -> None:
    given = {
        "--storage": f"sqlite:///{whole / 'study.db'}",
        "--study": "vgg11-digits-12each-smoke/uniform",
        "--out": str(tmp_path / "network"),
    } | dict(option.split("=", 1) for option in options)
    assert_fails(call_nsopt("export", *(f"{key}={value}" for key, value in given.items())), message)
    assert not list(tmp_path.iterdir())


def count_trials(database: Path, state: str, study: str = "%") -> int:
    """Count trials of a state without Optuna's locks; 0 if the file does not exist yet."""
    if not database.is_file():
        return 0
    query = (
        "SELECT COUNT(*) FROM trials JOIN studies USING (study_id) "
        "WHERE state = ? AND study_name LIKE ?"
    )
    try:
        with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as connection:
            (number,) = connection.execute(query, (state, study)).fetchone()
    except sqlite3.OperationalError:
        return 0
    return int(number)


def interrupt_when(
    out: Path, completed: int, running: bool, signum: signal.Signals
) -> tuple[int, str]:
    """Run the command and interrupt it; return its exit code and its stderr.

    It is stopped while its trials are counted, so that none of them ends before the signal.
    """
    process = start("study", *SHORT, f"--out={out}")
    database = out / "study.db"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        names = ("uniform", "neuralscale")
        trained = sum(count_trials(database, "COMPLETE", f"%/{name}") for name in names)
        if trained >= completed and count_trials(database, "RUNNING") >= int(running):
            process.send_signal(signal.SIGSTOP)
            if count_trials(database, "RUNNING") >= int(running):
                break
            process.send_signal(signal.SIGCONT)
        time.sleep(0.02)
    process.send_signal(signum)
    process.send_signal(signal.SIGCONT)
    done = process.finish(timeout=60)
    return done.returncode, done.stderr


def test_the_same_command_finishes_a_study_that_was_killed(whole: Path, tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    killed = -signal.SIGKILL
    assert interrupt_when(tmp_path, 0, False, signal.SIGKILL)[0] == killed  # at the start
    assert not database.exists()
    assert interrupt_when(tmp_path, 1, True, signal.SIGKILL)[0] == killed
    assert count_trials(database, "RUNNING") == 1
    code, errors = interrupt_when(tmp_path, 4, True, signal.SIGINT)
    assert code == 130
    assert errors == f"\ninterrupted: {REST}\n"
    run_short(tmp_path)
    assert count_trials(database, "COMPLETE", "%/search") == 1
    assert count_trials(database, "RUNNING") == count_trials(database, "WAITING") == 0
    assert count_trials(database, "COMPLETE") == POINTS + 1
    assert read_law(tmp_path) == read_law(whole)
    pd.testing.assert_frame_equal(read_outcomes(tmp_path), read_outcomes(whole))


def test_two_commands_at_once_run_every_point_once(whole: Path, tmp_path: Path) -> None:
    """In a URL, the name of their new folder would end it, begin options, and be decoded."""
    out = tmp_path / "10%41?a=1#b"
    both = [start("study", *SHORT, f"--out={out}") for _ in range(2)]
    done = [process.finish() for process in both]
    assert [each.returncode for each in done] == [0, 0], done
    assert [folder.name for folder in tmp_path.iterdir()] == [out.name]
    assert count_trials(out / "study.db", "COMPLETE") == POINTS + 1
    assert sum("waiting for the search of another command" in each.stdout for each in done) <= 1
    assert read_law(out) == read_law(whole)
    pd.testing.assert_frame_equal(read_outcomes(out), read_outcomes(whole))


def test_report_rebuilds_the_page_from_the_storage_alone(whole: Path, tmp_path: Path) -> None:
    storage = f"sqlite:///{whole / 'study.db'}"
    done = start("report", f"--storage={storage}", f"--out={tmp_path}").finish()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").read_text() == (whole / "report/index.html").read_text()


def test_every_method_has_a_note_and_figures_for_the_dashboard(whole: Path) -> None:
    storage = f"sqlite:///{whole / 'study.db'}"
    shown = {}
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        is_method = not name.endswith("/search")
        assert ("| --- |" in optuna_dashboard.get_note(study)) == is_method
        attributes = study._storage.get_study_system_attrs(study._study_id)
        plots = [key.split(":") for key in attributes if key.startswith("dashboard:plot_data")]
        shown[name.split("/")[1]] = {parts[2] for parts in plots}
    pareto = {"pareto", "widths"}
    assert shown == {"uniform": pareto, "neuralscale": pareto, "search": set()}


def test_the_dashboard_serves_the_studies_on_loopback(whole: Path) -> None:
    port, storage = free_port(), f"sqlite:///{whole / 'study.db'}"
    options = ("dashboard", f"--storage={storage}", f"--port={port}")
    with start(*options) as process:
        studies = studies_served(f"http://127.0.0.1:{port}/api/studies", process)
        busy = start(*options).finish()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    methods = {study["study_name"].split("/")[1] for study in studies}
    assert methods == {"uniform", "neuralscale", "search"}
    assert_fails(busy, "try another --port")
    assert_fails(start(*options[:2], "--port=70000").finish(), "port must be 0-65535")


def studies_served(address: str, process: Forked) -> list[dict]:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                studies: list[dict] = json.load(answer)["study_summaries"]
                return studies
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_latency_is_measured_again_and_reported(whole: Path, tmp_path: Path) -> None:
    storage = f"--storage=sqlite:///{whole / 'study.db'}"
    before = read_results(f"sqlite:///{whole / 'study.db'}").latencies
    done = call_nsopt("latency", storage, "--batch-size=1,7", "--threads=1")
    assert done.returncode == 0, done.stderr
    after = read_results(f"sqlite:///{whole / 'study.db'}").latencies
    networks = before[["method", "widths"]].drop_duplicates()
    assert len(after) == len(before) + 2 * len(networks)
    assert set(after["batch_size"]) == {1, 7, 100}
    assert after["spread"].notna().all()
    for row in networks.itertuples():
        assert row.method.split("-")[0] in done.stdout.lower()
    assert call_nsopt("report", storage, f"--out={tmp_path}").returncode == 0
    assert len(pd.read_csv(tmp_path / "latencies.csv")) == len(after)


def test_widths_takes_a_method_and_reports_budgets_beyond_the_record(whole: Path) -> None:
    storage = f"--storage=sqlite:///{whole / 'study.db'}"
    asked = ("widths", storage, "--ratios=0.08,4", "--json")
    small, large = json.loads(call_nsopt(*asked).stdout)
    assert large["beyond_record"] > 1
    assert small["beyond_record"] is None or small["beyond_record"] < 1
    uniform = json.loads(call_nsopt(*asked, "--method=uniform", "--min-width=params=2").stdout)
    assert [row["beyond_record"] for row in uniform] == [None, None]
    assert uniform[1]["params"] == large["budget"]
    assert "record: the budget lies outside" in call_nsopt(*asked[:-1]).stdout
    assert_fails(call_nsopt(*asked, "--method=magnitude"), "one law per trained network, so none i")
    assert_fails(call_nsopt(*asked, "--method=neuralscale-macs"), "no search-macs of vgg11-digits-")
