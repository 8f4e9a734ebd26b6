"""Progress in a pipe: lines now and then."""

import pytest

from nsopt.cli.console import LineProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("nsopt.cli.console.time.monotonic", lambda: now[0])
    return now


def test_steps_are_told_after_a_silence(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = LineProgress(steps=True)
    progress.overall(4, 16)
    progress.start("uniform 0.25x seed 1", 3)
    progress.advance("loss 1.000")
    clock[0] = 6.0
    progress.advance("loss 0.500")
    progress.advance("loss 0.250")
    progress.message("validation 60.00 %")
    assert capsys.readouterr().out.splitlines() == [
        "point 5 of 16, uniform 0.25x seed 1: 2 of 3, loss 0.500",
        "validation 60.00 %",
    ]


def test_of_a_continued_task_the_steps_of_before_are_not_told(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = LineProgress(steps=True)
    clock[0] = 20.0
    progress.start("training", 300)
    for _ in range(140):
        progress.advance()
    clock[0] = 40.0
    progress.advance("loss 0.500")
    assert capsys.readouterr().out == "training: 141 of 300, loss 0.500\n"


def test_who_works_for_another_tells_messages_alone(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = LineProgress(steps=False)
    progress.start("training", 2)
    clock[0] = 60.0
    progress.advance("loss 1.000")
    progress.message("done")
    assert capsys.readouterr().out == "done\n"
