"""The start of the command: an interrupt, and a working directory that is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import call_nsopt
from tests.e2e.test_user_errors import assert_fails


@pytest.mark.parametrize(("command", "keeps_results"), [("study", True), ("dashboard", False)])
def test_interrupts_promise_only_what_there_is(command: str, keeps_results: bool) -> None:
    """Also one that comes while Python imports the command."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT_THE_FIRST_IMPORT, command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr.startswith("\ninterrupted")
    assert len(done.stderr.splitlines()) == 2
    assert ("are kept" in done.stderr) == keeps_results


INTERRUPTED_AT_THE_FIRST_IMPORT = """
import os, signal, sys
from types import SimpleNamespace
from nsopt.cli.app import main
interrupt = lambda *_: os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, SimpleNamespace(find_spec=interrupt))
main()
"""


def test_a_deleted_directory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert_fails(call_nsopt("doctor"), "the working directory is deleted: go to another one")
