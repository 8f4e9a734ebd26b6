"""Progress of long calls from Python."""

import logging

import pytest
import torch
from torch import nn

import nsopt
from nsopt.progress import Silent, show_progress
from tests.latency.brief import learn_briefly


@pytest.fixture
def tiny() -> nsopt.Architecture:
    """A network that is searched and timed within moments."""
    stem = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    return nsopt.trace(nn.Sequential(*stem, *head), torch.rand(2, 1, 8, 8))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich takes any output for a terminal then


def find_law(arch: nsopt.Architecture, progress: Silent | None = None) -> None:
    settings = nsopt.SearchSettings(
        pretrain_epochs=0, prune_every=1, filters_per_step=1, iterations=1, device="cpu"
    )
    batches = [(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))]
    loss = nn.functional.cross_entropy
    nsopt.search(arch, nsopt.Task(batches, loss), settings, progress=progress)


@pytest.mark.usefixtures("terminal")
def test_a_search_shows_its_steps_on_a_terminal(
    tiny: nsopt.Architecture, capsys: pytest.CaptureFixture[str]
) -> None:
    find_law(tiny, nsopt.Silent())
    assert capsys.readouterr().out == ""
    find_law(tiny)
    assert "searching" in capsys.readouterr().out


@pytest.mark.usefixtures("terminal")
def test_learning_milliseconds_shows_its_steps_on_a_terminal(
    tiny: nsopt.Architecture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_briefly(monkeypatch)
    nsopt.with_latency(tiny, "cpu")
    assert "timing 6 networks" in capsys.readouterr().out


def test_progress_goes_to_the_log_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("nsopt.progress.time.monotonic", lambda: now[0])
    lines = ["a message", "a warning", "searching: 2 of 3"]
    for level, seen in ((logging.WARNING, lines[1:2]), (logging.INFO, lines)):
        caplog.clear()
        with caplog.at_level(level, "nsopt"), show_progress(None) as progress:
            progress.message("a message")
            progress.warning("a warning")
            progress.start("searching", 3)
            progress.advance()
            now[0] += 31
            progress.advance()
        assert [record.message for record in caplog.records] == seen
    assert not any(capsys.readouterr())


def test_progress_goes_to_stderr_without_a_terminal_and_without_logging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    with show_progress(None) as progress:
        progress.message("a message")
        progress.warning("a warning")
    assert capsys.readouterr() == ("", "a message\na warning\n")
