import errno
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from nsopt.compute import checkpoint
from nsopt.compute.checkpoint import Checkpoint
from nsopt.errors import NsoptError
from tests.conftest import one_line

CPU = torch.device("cpu")
IDENTITY = {"arch": "vgg11", "search": {"lr": 0.1, "seed": 3}}


@pytest.fixture(autouse=True)
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)


def save(path: Path, **state: object) -> Checkpoint:
    written = Checkpoint(path, IDENTITY)
    written.save_when_due(lambda: state)
    return written


def test_a_saved_state_is_loaded_unchanged(tmp_path: Path) -> None:
    weights = torch.randn(2, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    save(tmp_path / "a" / "run.pt", model={"w": weights}, rows=[[3, 4], [2, 2]], loss=0.5)
    state = Checkpoint(tmp_path / "a" / "run.pt", IDENTITY).load(CPU)
    assert state is not None
    torch.testing.assert_close(state["model"]["w"], weights, rtol=0, atol=0)
    assert state["model"]["w"].stride() == weights.stride()
    assert (state["rows"], state["loss"]) == ([[3, 4], [2, 2]], 0.5)


def test_load_returns_none_before_the_first_save(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "run.pt", IDENTITY).load(CPU) is None
    assert Checkpoint(None, {}).load(CPU) is None


def test_no_path_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = Checkpoint(None, {})
    nowhere.save_when_due(dict)
    nowhere.remove()
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_wait_until_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 3600.0)
    save(tmp_path / "run.pt", step=1)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_come_at_least_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 0 < checkpoint.SECONDS_BETWEEN <= 30


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_an_unreadable_checkpoint_raises_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.pt").write_bytes(content)
    with pytest.raises(NsoptError, match="cannot be read: delete it to start over"):
        Checkpoint(tmp_path / "run.pt", IDENTITY).load(CPU)


class Trap:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("trapped",))


def test_loading_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"identity": IDENTITY, "state": Trap()}, tmp_path / "run.pt")
    with pytest.raises(NsoptError, match="cannot be read"):
        Checkpoint(tmp_path / "run.pt", IDENTITY).load(CPU)
    assert not (tmp_path / "trapped").exists()


def test_failed_writes_keep_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save(tmp_path / "run.pt", step=1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        run.save_when_due(lambda: {"step": 2})
    assert run.load(CPU) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def partial_file(path: Path, process: int, machine: str = platform.node()) -> Path:
    """Return the folder of the partial checkpoint that a process writes."""
    return path.with_name(f".nsopt-abcdefgh.{machine}.{process}.part")


def test_removing_and_saving_delete_only_what_killed_processes_left(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    run = save(path, step=1)
    ended = subprocess.Popen(["true"])
    ended.wait()
    living = {partial_file(path, os.getppid()), partial_file(path, ended.pid, "another-machine")}
    for remove in (run.remove, lambda: run.save({"step": 2}), run.remove):
        for file in {*living, partial_file(path, ended.pid)}:
            file.mkdir(exist_ok=True)
        remove()
        assert set(tmp_path.glob(".*.part")) == living
    assert not path.exists()


def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    run = save(path, weights=torch.arange(8.0))
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with one_line("cannot be read: delete it to start over"):
            run.load(CPU)


def test_a_folder_that_another_process_removes_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, made = Path.mkdir, []

    def tidied(self: Path, *arguments: object, **options: object) -> None:
        mkdir(self, *arguments, **options)
        if self == tmp_path / "a" and self not in made:
            made.append(self)
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", tidied)
    run = save(tmp_path / "a" / "run.pt", step=1)
    assert made
    assert run.load(CPU) == {"step": 1}


def test_saving_follows_no_symbolic_link(tmp_path: Path) -> None:
    path, victim = tmp_path / "run.pt", tmp_path / "victim"
    victim.write_text("mine")
    partial_file(path, os.getpid()).symlink_to(victim)
    save(path, step=1)
    assert victim.read_text() == "mine"
    assert not path.is_symlink()
