"""Progress in a pipe, and safe output of any text."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import Progress as RichBars
from rich.table import Table

from nsopt.cli.console import console, live_progress, name_options, tell_what_is_fixed, user_errors
from nsopt.errors import NsoptError
from nsopt.files import cache_folder, written_beside
from nsopt.progress import LineProgress, LiveProgress, PlainConsole


def test_a_file_in_the_place_of_a_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").touch()
    (tmp_path / "network.onnx").mkdir()
    with pytest.raises(SystemExit, match="2"), user_errors():
        (tmp_path / "report").mkdir()
    with (
        pytest.raises(SystemExit, match="2"),
        user_errors(),
        written_beside(tmp_path / "network.onnx") as unfinished,
    ):
        unfinished.touch()
    with pytest.raises(SystemExit, match="2"), user_errors():
        Path("x" * 1000).touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "report"))
    with pytest.raises(SystemExit, match="2"), user_errors():
        cache_folder().mkdir()
    first, second, third, fourth = capsys.readouterr().err.splitlines()
    advice = "rename it, let this user write there, or give another folder"
    assert first == f"error: cannot use {tmp_path}/report (File exists): {advice}"
    assert second == f"error: cannot use {tmp_path}/network.onnx (Is a directory): {advice}"
    assert third == f"error: cannot use {'x' * 500} (File name too long): {advice}"
    assert fourth.endswith("there, or name another folder in XDG_CACHE_HOME")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("nsopt.progress.time.monotonic", lambda: now[0])
    return now


def test_steps_wait_for_a_pause(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(print)
    progress.overall(4, 16)
    progress.start("uniform 0.25x seed 1", 3)
    progress.advance("loss 1.000")
    clock[0] = 6.0
    progress.advance("loss 0.500")
    progress.advance("loss 0.250")
    progress.message("validation 60.00 %")
    assert capsys.readouterr().out.splitlines() == [
        "step 5 of 16, uniform 0.25x seed 1: 2 of 3, loss 0.500",
        "validation 60.00 %",
    ]


def test_earlier_steps_are_silent(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(print)
    clock[0] = 20.0
    progress.start("training", 300)
    for _ in range(140):
        progress.advance()
    clock[0] = 40.0
    progress.advance("loss 0.500")
    assert capsys.readouterr().out == "training\ntraining: 141 of 300, loss 0.500\n"


def test_a_worker_prints_no_steps(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(print, steps=False)
    progress.start("training", 2)
    clock[0] = 60.0
    progress.advance("loss 1.000")
    progress.message("done")
    assert capsys.readouterr().out == "done\n"


def test_a_step_that_takes_long_is_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    progress, written = LineProgress(print, pause=0.0), ""
    progress.start("timing", 3)
    with progress.repeating(pause=0.001):
        while "timing: 0 of 3" not in written:
            written += capsys.readouterr().out
    capsys.readouterr()
    time.sleep(0.01)
    assert capsys.readouterr().out == "", "nothing after the end"


ESCAPES = "a\x1b]0;title\x07\x1b[31mb\x9b2Jc\u202ed\x7f\udc80e"
LEFT = "a]0;title[31mb2Jcde"


def table() -> Table:
    rows = Table(ESCAPES, title=ESCAPES)
    rows.add_row(ESCAPES)
    return rows


def fail() -> None:
    with pytest.raises(SystemExit), user_errors():
        raise NsoptError(ESCAPES)


@pytest.mark.parametrize(
    "show",
    [
        lambda: console.print(ESCAPES),
        lambda: console.print(ESCAPES, style="dim"),
        lambda: console.print(table()),
        lambda: tell_what_is_fixed(ESCAPES),
        lambda: LineProgress(print).message(ESCAPES),
        fail,
    ],
    ids=["text", "styled", "table", "network", "message", "error"],
)
def test_no_escape_codes(show: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    show()
    printed = "".join(capsys.readouterr())
    assert LEFT in printed
    assert set(printed) & set(ESCAPES) <= set(LEFT)


def test_unencodable_characters_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    console.print("70.12 ±0.31 of é")
    with live_progress() as progress:
        progress.message("é")
    assert written.getvalue() == b"70.12 ?0.31 of ?\n?\n"


def test_text_with_brackets_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    console.print("[/x] [link=file:///]a[/link] :smile:")
    assert capsys.readouterr().out == "[/x] [link=file:///]a[/link] :smile:\n"


def test_a_progress_bar_keeps_brackets_and_drops_escape_codes() -> None:
    terminal = PlainConsole()
    with terminal.capture() as captured, RichBars(console=terminal) as bars:
        progress = LiveProgress(bars)
        progress.start(f"[/x] {ESCAPES}", 1)
        progress.message(f"[/x] {ESCAPES}")
    assert f"[/x] {LEFT}" in captured.get()
    assert "\x1b]" not in captured.get()


def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    """As in `nsopt widths --json | head`."""
    code = "from nsopt.cli.console import user_errors\nwith user_errors(): print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("give another out= or storage=", "give another --out or --storage"),
        ("try batch_size=32", "try --batch-size 32"),
        ("use device='auto' (cpu)", "use --device auto (cpu)"),
        ("smaller steps (filters_per_step=)", "smaller steps (--filters-per-step)"),
        ("give its function as task=", "give its function as --task"),
        ("macs=50%: give x/out=5 another name=", "macs=50%: give x/out=5 another --name"),
    ],
)
def test_the_command_line_shows_arguments_as_options(text: str, shown: str) -> None:
    assert name_options(text) == shown
