"""Mistakes of users: the command prints one line, exits with 2 and changes no storage."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nsopt import get_preset, load_network
from nsopt.cli.options import OutputOptions, TaskOptions, TrainingOptions
from nsopt.cli.preparation import prepare
from nsopt.storage.opening import open_storage
from tests.conftest import call_nsopt, run_nsopt
from tests.forked import Forked, run_module

SHORT = ["--methods=uniform", "--per-class=20", "--device=cpu", "--precision=fp32"]
ONE_POINT = [*SHORT, "--ratios=0.03", "--seeds=1", "--epochs=1"]


def assert_fails(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Assert that the command failed with a one-line error that contains `parts`."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("study --arch=vgg1", "unknown architecture 'vgg1'|did you mean 'vgg11'"),
        ("study --data=cifar20", "unknown data set 'cifar20'|did you mean 'cifar"),
        ("study --methods=uniform,neural", "unknown method 'neural'|'neuralscale'"),
        ("study --methods=", "no methods given"),
        ("study --metric=flops", "unknown metric 'flops'|params"),
        ("study --preset=quik", 'Invalid value "quik" for --preset|"quick"'),
        ("study --precision=fp23", 'Invalid value "fp23" for --precision|"fp32"'),
        ("study --device=cuda:7", "device 'cuda:7' is not available|--device auto"),
        ("study --ratios=0.25,0", "a width ratio must be above 0 and finite, got 0"),
        ("study --ratios=-1", "above 0 and finite, got -1"),
        ("study --ratios=a", "'a' is not a width ratio: write 0.25 or 25%"),
        ("study --ratios=25", "a network 25 times as wide: for 0.25 write 0.25 or 25%"),
        ("study --budgets=100", "no widths fit a budget of 100|smallest feasible one is 116"),
        ("study --multiple-of=64 --budgets=50k", "of 50,000 params: the smallest feasible one is"),
        ("study --min-width=64 --ratios=0.03", "the smallest feasible one is"),
        ("study --budgets=6x", "'6x' is not a budget: write 600000, 600k or 2M"),
        ("study --budgets=20ms", "'20ms' is not a budget|or for milliseconds latency=20ms"),
        ("study --budgets=1M --ratios=1", "--ratios or --budgets, not both"),
        ("study --lr=-1", "--lr -1"),
        ("study --eta=0", "--eta 0.0: input should be greater than 0"),
        ("study --eta=1 --multiple-of=8", "takes no multiple_of or min_width: leave eta out"),
        ("study --storage=results", "'results' is not a database URL such as sqlite"),
        ("study --storage=sqlite:///", "is lost at the end: write sqlite:///FILE"),
        ("study --storage=sqlite:///out/x.db?timeout=word", "x.db' is not a database URL"),
        ("study --budgets=params=250k,params=5M", "write a semicolon between"),
        ("study --budgets=params=5M,macs=1", "no widths fit the budgets params=5,000,000, macs=1"),
        ("study --budgets=params=250k --metric=macs", "leave --metric out"),
        ("study --runtime=torch --measure=math:sqrt", "give --runtime or --measure, not both"),
        ("study --data=cifar100 --data-dir=nowhere", "put cifar-100-python.tar.gz|nowhere"),
        ("study --image-size=16", "at least 32x32|--image-size 32"),
        ("study --data=folder:nowhere", "no folder or zip at nowhere"),
        ("study --start=missing.pt --data=folder:nowhere", "missing.pt: the file does not exist"),
        ("study --data=folder:~nobody-here/x", "names the home of no user: give another path"),
        ("tune --over=p", 'Invalid value "p" for --over. Choose from: "pretrain-epochs", "eta"'),
        ("tune --objective=accuracy", "Unknown option: --objective"),
        ("tune --trials=0", 'Invalid value "0" for --trials. Must be >= 1'),
        ("study --batch-size=1", "--batch-size 1: input should be greater than or equal to 2"),
        ("study --sedes=2", "Unknown option: --sedes. Did you mean --seeds?"),
        ("study --epochs=two", "Invalid value for --epochs: 'two' is not a whole number: write"),
        ("study --epochs=1.5", "Invalid value for --epochs: '1.5' is not a whole number: write"),
        ("study --seeds=1 --seeds=2", "--seeds specified multiple times"),
        ("study --budgets 600 k", "'k' belongs to no option: write values without spaces"),
        ("stduy", 'Unknown command "stduy". Did you mean "study"?'),
        ("report --out=r", "no study is in runs/: give --storage"),
        ("report --out=~nobody-here/r", "It names a home folder that does not exist."),
        ("report --out=", "Invalid value for --out: It is empty: name a path, or leave the"),
        ("worker --storage=sqlite:///none.db", "--study needs a value: see nsopt worker --help"),
        ("tune --ratios=0.1,0.2", "tune takes a single budget"),
        ("tune --over=eta --min-width=8", "Algorithm 3 takes no --multiple-of or --min-width"),
        ("tune --over=eta --seeds=3", "--seeds does nothing with --over eta: leave it out"),
        ("tune --over=eta --epochs=3", "--epochs does nothing with --over eta"),
        ("tune --over=eta --pretrain-epochs=3", "--pretrain-epochs does nothing with --over eta"),
        ("tune --trials=3", "--trials does nothing with --over pretrain-epochs: leave it out"),
        ("tune --budgets=params=250k,macs=5M", "tune takes a budget in one metric"),
        ("study --eta=50 --methods=uniform --budgets=params=250k,macs=5M", "one budget at a time"),
        ("tune --pretrain-epochs=two", "--pretrain-epochs 'two': write numbers such as 0,2,5"),
        ("tune --pretrain-epochs=-1", "--pretrain-epochs must be 0 or more"),
        ("study --schedule=linear --distillation=0.5", "needs a trained network as teacher"),
        ("study --start=small.pt --pretrain-epochs=5", "does nothing with --start: leave it out"),
        ("study --tuned=x", "--tuned needs the storage of that study: give --storage"),
        ("export --study=x/uniform --name=x", "--name does nothing with --study: leave it out"),
        ("study --multiple-of=macs=8,macs=16", "names a metric twice: give one number"),
        ("widths --law=law.json --method=uniform", "--method does nothing with --law: leave it"),
        ("widths --storage=sqlite:///none.db --classes=7", "--classes does nothing without --law"),
        ("widths --law=~/none.json --iteration=1", f"{Path.home()}/none.json"),
        ("dashboard --storage=sqlite:///none.db --artifacts=none", "no folder none of stored"),
        ("dashboard --storage=sqlite:///none.db", "nothing is stored at"),
        ("dashboard --storage=study.db", "is not a database URL"),
        ("study --tuned=x --storage=sqlite:///none.db", "no tuning study 'x' is stored at"),
        ("worker --storage=sqlite:///none.db --study=x", "nothing is stored at"),
        ("report --storage=sqlite:///none.db --out=r", "nothing is stored at"),
        ("report --storage=sqlite:///none.db --out=r --name=x-tune", "nothing is stored at"),
        ("study --metric=latency --budgets=fast", "'fast' is not a latency: write 20ms"),
        ("study --multiple-of=eight", "'eight' is not a width: write 8, or latency=16,macs=8"),
        ("study --multiple-of=mac=8", "unknown metric 'mac': did you mean 'macs'"),
        ("study --min-width=latency=16=8", "unknown metric 'latency=16': did you mean 'latency'"),
        ("study --price=flops", 'Invalid value "flops" for --price. Choose from: "filters"'),
        ("study --price=latency", 'Choose from: "filters", "params", "macs"'),
        ("study --convergence=band", 'write a number, such as 0.1, in place of "band"'),
        ("study --methods=neuralscale-latency", "did you mean 'neuralscale-macs'"),
        ("search --runtime=onnxruntime", "Unknown option: --runtime"),
        ("latency --storage=sqlite:///none.db", "nothing is stored at"),
        ("latency --storage=sqlite:///none.db --batch-size=0", "--batch-size '0': write numbers"),
        ("latency --batch-size=99999999", "--batch-size '99999999': write numbers"),
        ("latency --threads=99999", 'Invalid value "99999" for --threads. Must be <= 1024'),
        ("study --seeds=1000000000", "--seeds 1000000000: input should be less than or equal to"),
        ("study --data=", "unknown data set ''"),
        ("widths --storage=sqlite:///none.db --method=uniform", "nothing is stored at"),
        (
            "worker --storage=grpc://host:1 --study=x",
            "kind: use sqlite:///FILE, journal:///FILE, or a server: postgresql",
        ),
    ],
)
@pytest.mark.usefixtures("slim")
def test_all_commands_refuse_invalid_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, parts: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_fails(call_nsopt(*command.split()), *parts.split("|"))
    assert list(tmp_path.iterdir()) == []


COMMANDS_WITH_A_FOLDER = (
    *("study", "search", "tune"),
    "worker --storage=sqlite:///study.db --study=s",
    "report --storage=sqlite:///study.db",
    "export --storage=sqlite:///study.db --study=s/uniform",
)


@pytest.mark.parametrize("command", COMMANDS_WITH_A_FOLDER)
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("notes.txt/out", "Not a directory"),
        ("dangling/out", "No such file"),
        ("locked/out", "ermission denied"),
        ("/proc/nowhere/out", "No such file"),
        (f"{'long' * 100}/out", "File name too long"),
    ],
)
def test_an_unwritable_folder_fails_before_any_work(
    place: str, reason: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (place.startswith("/proc") and sys.platform != "linux") or (
        place.startswith("locked") and os.geteuid() == 0
    ):
        pytest.skip("this system can write there")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "locked").mkdir(mode=0o500)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("nsopt.cli.preparation.load_source", None)
    monkeypatch.chdir(tmp_path)
    assert_fails(call_nsopt(*command.split(), f"--out={place}"), "cannot write to", reason)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("slim")
def test_empty_databases_are_storages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.db").touch()
    url = f"sqlite:///{tmp_path / 'study.db'}"
    options = TaskOptions(), OutputOptions(out=tmp_path)
    prepare(*options, get_preset("smoke", "digits").settings, TrainingOptions())
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"{tmp_path / 'study.db'} is empty: nsopt creates a new storage in it" in printed
    report = ("report", f"--storage={url}", f"--out={tmp_path / 'report'}")
    assert_fails(call_nsopt(*report), "nothing is stored at", "run a study first")
    assert (tmp_path / "study.db").stat().st_size == 0
    open_storage(url)
    prepare(*options, get_preset("smoke", "digits").settings, TrainingOptions())
    assert "is empty" not in capsys.readouterr().out


def test_a_separate_process_fails_in_one_line_too(tmp_path: Path) -> None:
    done = run_nsopt("--arch=vgg1", f"--out={tmp_path / 'out'}")
    assert_fails(done, "unknown architecture 'vgg1'")


def test_a_full_disk_fails_in_one_line_and_the_same_command_finishes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    study = ("study", *ONE_POINT, f"--out={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert_fails(call_nsopt(*study), "disk is full: make room and run the same command again")
    assert not list((tmp_path / "artifacts").iterdir())
    assert call_nsopt(*study).returncode == 0
    (path,) = (tmp_path / "artifacts").iterdir()
    assert load_network(path).seed == 0


@pytest.mark.skipif(sys.platform != "linux", reason="address-space limits are Linux's")
def test_running_out_of_memory_suggests_a_batch_size(tmp_path: Path) -> None:
    all_digits = [option for option in SHORT if not option.startswith("--per-class")]
    options = [*all_digits, "--seeds=1", "--epochs=1", "--ratios=1", "--batch-size=60000"]
    options += [f"--out={tmp_path / 'out'}"]
    done = Forked(run_within, 2**29, options).finish()
    assert_fails(done, "out of memory with batches of 1347: try --batch-size 673")
    assert not (tmp_path / "out").exists()


def run_within(more: int, options: list[str]) -> None:
    """Run the command with so many bytes more of addresses than are in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    run_module("nsopt.study", options)
