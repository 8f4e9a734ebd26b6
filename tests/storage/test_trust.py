"""Files and storages of other people can name networks, but cannot run code."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

import nsopt
from nsopt import NsoptError, load_network
from nsopt.deployment.artifacts import BestNetworks
from nsopt.deployment.kept import read_weights, write_weights
from nsopt.session.workspace import Workspace
from nsopt.storage.opening import open_storage
from tests.conftest import call_nsopt
from tests.deployment.test_artifacts import make_network
from tests.e2e.test_user_errors import assert_fails

pytestmark = pytest.mark.usefixtures("slim")
TRAP = "trap:spring"
PREFIX = "vgg11-digits-30each-smoke"
MODULE = """
from pathlib import Path

Path(__file__).with_name("sprung").touch()


def spring():
    raise SystemExit
"""


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the module `trap` creates when it is imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "trap.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder / "sprung"


@pytest.fixture
def planted(tmp_path: Path, written: Path) -> str:
    """The URL of a storage whose studies are about the network `trap:spring`."""
    return write_storage(TRAP, tmp_path, written)


def write_storage(arch: str, tmp_path: Path, written: Path) -> str:
    """Write a storage whose studies are about a network, with a kept one; return its URL."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        connection.execute(
            "UPDATE study_user_attributes SET value_json = "
            f"""replace(value_json, '"arch": "vgg11"', '"arch": "{arch}"')"""
        )
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.load_study(study_name=f"{PREFIX}/uniform", storage=open_storage(url))
    (trial,) = study.trials
    file = BestNetworks(tmp_path / "artifacts").file(study, trial)
    write_weights(file, read_weights(file) | {"arch": arch})
    return url


def export(tmp_path: Path, written: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Export the weights of a `vgg11`, without a check on images."""
    url = write_storage("vgg11", tmp_path, written)
    return call_nsopt(
        *("export", f"--storage={url}", f"--study={PREFIX}/uniform", f"--out={out}"),
        *("--format=state_dict", "--unchecked"),
    )


def test_an_export_follows_no_symbolic_link(tmp_path: Path, written: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    folder.mkdir()
    for name in ("network.pt", "unfinished-network.pt"):
        (folder / name).symlink_to(victim)
    assert export(tmp_path, written, folder / "network.pt").returncode == 0
    assert victim.read_text() == "precious"
    assert not (folder / "network.pt").is_symlink()
    assert load_network(folder / "network.pt").arch == "vgg11"
    assert len(list(folder.iterdir())) == 2


def test_an_export_needs_a_file_name(tmp_path: Path, written: Path) -> None:
    assert_fails(export(tmp_path, written, tmp_path), "is a folder: name a file")


def test_escape_codes_in_study_names_are_not_printed(tmp_path: Path, written: Path) -> None:
    url = write_storage("vgg11", tmp_path, written)
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        connection.execute("UPDATE studies SET study_name = '\x1b[31m' || study_name")
    done = call_nsopt("worker", f"--storage={url}", "--study=other")
    assert_fails(done, f"stored are [31m{PREFIX}")
    assert "\x1b" not in done.stderr


def test_a_study_name_that_points_outside_the_folder_is_refused(tmp_path: Path) -> None:
    place = Workspace("sqlite://", tmp_path)
    for name in ("vgg11-digits-../../../victim/uniform", "/victim", "../victim"):
        with pytest.raises(NsoptError, match="has no folder here: its name points outside"):
            place.checkpoints(name)


def test_a_file_cannot_make_nsopt_import_a_module(sprung: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    replace(make_network(50.0), arch=TRAP).save(file)
    for load in (nsopt.load_network, nsopt.load_weights):
        with pytest.raises(NsoptError, match=rf"weights\.pt: .*arch={TRAP}"):
            load(file)
    assert not sprung.exists()
    with pytest.raises(NsoptError, match="SystemExit"):
        load_network(file, arch=TRAP)
    assert sprung.exists()


def test_a_file_of_another_network_is_refused(sprung: Path, tmp_path: Path) -> None:
    for stored, given in ((TRAP, "vgg11"), ("vgg11", TRAP), (TRAP, "trap:other")):
        replace(make_network(50.0), arch=stored).save(tmp_path / "weights.pt")
        with pytest.raises(NsoptError, match=f"network is '{stored}', not '{given}': give arch="):
            load_network(tmp_path / "weights.pt", arch=given)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "command",
    [
        f"export --study={PREFIX}/uniform --out=network.onnx",
        f"export --study={PREFIX}/uniform --out=network.pt --format=state_dict --unchecked",
        "latency",
        f"worker --study={PREFIX}",
        "widths",
        "widths --method=uniform",
        "report --out=report",
    ],
)
def test_a_storage_makes_nsopt_import_nothing(planted: str, sprung: Path, command: str) -> None:
    done = call_nsopt(*command.split(), f"--storage={planted}")
    if not command.startswith("report"):
        assert_fails(done, f"the stored network '{TRAP}' would run code", f"--arch {TRAP}")
        other = call_nsopt(*command.split(), f"--storage={planted}", "--arch=vgg11")
        assert_fails(other, f"the stored network is '{TRAP}', not 'vgg11': give --arch {TRAP}")
    assert not sprung.exists()
