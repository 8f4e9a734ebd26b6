"""The answer of a command that finished before."""

import json
import os
import platform
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import torch

import nsopt
from nsopt.cli.answer import Answer, keep_answer, read_answer

ANSWER = Answer("sounds", [{"budget": "100%"}, {"budget": "macs=50%"}], ["files: out"])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an answer to the command "x", which read weights, data and a module."""
    monkeypatch.chdir(tmp_path)
    for name in ("trained.pt", "my_task.py", "data/cat/1.png", "out/study.db"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    own = ModuleType("my_task")
    own.__file__ = str(tmp_path / "my_task.py")
    monkeypatch.setitem(sys.modules, "my_task", own)
    out = tmp_path / "out"
    keep_answer(out, "x", ANSWER, [Path("trained.pt"), Path("data"), out])
    return out


def test_the_same_command_has_the_same_answer(kept: Path) -> None:
    assert read_answer(kept, "x") == ANSWER
    keep_answer(kept, "y", ANSWER, [kept])
    assert read_answer(kept, "x") == read_answer(kept, "y") == ANSWER


@pytest.mark.parametrize(
    "name", ["trained.pt", "my_task.py", "data/cat/1.png", "data/cat/2.png", "out/study.db"]
)
def test_a_changed_file_ends_an_answer(kept: Path, name: str) -> None:
    Path(name).write_text("changed")
    assert read_answer(kept, "x") is None


def test_a_change_in_a_linked_folder_ends_an_answer(kept: Path) -> None:
    Path("photographs").mkdir()
    Path("data/dog").symlink_to(Path("photographs").absolute())
    keep_answer(kept, "x", ANSWER, [Path("data")])
    assert read_answer(kept, "x") == ANSWER
    Path("photographs/3.png").touch()
    assert read_answer(kept, "x") is None


def test_a_touched_or_missing_file_ends_an_answer(kept: Path) -> None:
    os.utime("trained.pt", (1, 1))
    assert read_answer(kept, "x") is None
    Path("trained.pt").unlink()
    assert read_answer(kept, "x") is None


def test_another_command_or_folder_has_no_answer(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_answer(kept, "z") is None
    monkeypatch.chdir("data")
    assert read_answer(kept, "x") is None


def test_an_answer_depends_on_the_machine_and_installed_packages(
    kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (file,) = kept.glob(".answer-*")
    read = json.loads(file.read_text())["read"]
    assert {nsopt.__file__, torch.__file__, json.__file__} <= set(read)
    with monkeypatch.context() as patch:
        patch.setattr(platform, "node", lambda: "another")
        assert read_answer(kept, "x") is None
    with monkeypatch.context() as patch:
        patch.setattr(sysconfig, "get_path", lambda name: tmp_path)
        assert read_answer(kept, "x") is None
    assert read_answer(kept, "x") == ANSWER


def test_a_damaged_answer_is_none(kept: Path) -> None:
    (file,) = kept.glob(".answer-*")
    file.write_text("{")
    assert read_answer(kept, "x") is None
