"""The cache folder, also where there is no home; files that replace others."""

import os
import platform
import pwd
import subprocess
import tempfile
from pathlib import Path

import pytest

from nsopt.errors import NsoptError
from nsopt.files import cache_folder, write_cached, write_whole, written_beside


@pytest.fixture(autouse=True)
def _without_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    assert cache_folder() == tmp_path / "new/.cache/nsopt"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen/nsopt"


def no_account(uid: int) -> None:
    raise KeyError(uid)


@pytest.mark.parametrize("home", [None, "/dev/null", "/dev/null/home"])
def test_without_a_home_the_cache_is_a_private_temporary_folder(
    home: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in containers that run as a user without an account."""
    monkeypatch.setattr(pwd, "getpwuid", no_account)
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    folder = cache_folder()
    assert folder == tmp_path / f"nsopt-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder


def test_a_temporary_folder_of_another_user_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"nsopt-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(NsoptError, match="belongs to another user: name a folder"):
        cache_folder()


def test_a_cache_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    write_cached(tmp_path / "deep/file", b"content")
    assert (tmp_path / "deep/file").read_bytes() == b"content"
    write_cached(Path("/dev/null/file"), b"content")


def test_the_next_file_removes_the_folders_of_killed_processes(tmp_path: Path) -> None:
    """Also where one such folder is inside another, and never that of a living process."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    with written_beside(tmp_path / "network.onnx") as outer, written_beside(outer) as inner:
        name = outer.parent.name
        killed = tmp_path / name.replace(f".{os.getpid()}.", f".{ended.pid}.")
        (killed / inner.parent.name).mkdir(parents=True)
        (killed / inner.parent.name / "network.onnx").touch()
        inner.write_text("whole")
        with written_beside(tmp_path / "network.pt2") as other:
            assert {path.name for path in tmp_path.iterdir()} == {name, other.parent.name}
            other.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"network.onnx", "network.pt2"}
    assert (tmp_path / "network.onnx").read_text() == "whole"


def test_the_next_file_removes_only_those_of_killed_processes(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    killed = f".nsopt-abcdefgh.{platform.node()}.{ended.pid}.part"
    here = f".{platform.node()}."
    kept = [killed.replace(f".{ended.pid}.", f".{os.getppid()}.")]  # of a living process
    kept += [killed.replace(here, machine) for machine in (f".x{here}", f"{here}x.")]
    for name in (killed, *kept):
        (tmp_path / name).mkdir()
    write_whole(tmp_path / "a.pt", b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.pt", *kept])
