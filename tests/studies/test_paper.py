"""The paper's tables and figures, from a comparison and from published numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nsopt import NsoptError, PowerLaw
from nsopt.reports.results import LATENCY_COLUMNS, Results
from nsopt.scaling.record import Iteration, Trajectory
from nsopt.storage.schema import TaskDescription
from nsopt.storage.trials import OUTCOME_COLUMNS
from studies.paper.published import (
    BEST_EPOCH,
    published_accuracies,
    published_data,
    published_lines,
    published_widths,
)
from studies.paper.report import main, render_paper, table_rows, write_paper

LAYERS = tuple(f"conv{number}" for number in range(1, 9))


def outcome(method: str, seed: int, best: float, ratio: float = 0.25) -> dict[str, Any]:
    return dict.fromkeys(OUTCOME_COLUMNS, 1.0) | {
        "method": method,
        "metric": "params",
        "ratio": ratio,
        "budget": 579_786,
        "binding": None,
        "cost_latency": None,
        "seed": seed,
        "params": 579_000,
        "test_score": best - 1,
        "test_score_best_epoch": best,
        "widths": (8,) * 8,
    }


@pytest.fixture
def results() -> Results:
    """A comparison of VGG11 on a copy of CIFAR-10, after one iteration of descent."""
    widths = np.arange(20, 4, -1)[:, None] * np.arange(1, 9)
    tau = widths.sum(axis=1).astype(float)
    law = PowerLaw.fit(widths[1:], tau[1:])
    return Results(
        name="vgg11-folder-cifar10-jpeg-paper",
        task=TaskDescription(
            "vgg11", "folder-cifar10-jpeg", LAYERS, tuple(widths[0].tolist()), 10, 32, 3
        ),
        settings={
            "preset": "paper",
            "search": {"pretrain_epochs": 10},
            "training": {"epochs": 300, "val_fraction": 0.02},
        },
        provenance={},
        outcomes=pd.DataFrame(
            [
                outcome("uniform", 0, 88.0),
                outcome("uniform", 1, 89.0),
                outcome("neuralscale", 0, 90.5),
                outcome("mine", 0, 91.0, ratio=0.3),
            ]
        ),
        latencies=pd.DataFrame(columns=LATENCY_COLUMNS),
        failures=pd.DataFrame(columns=["label", "reason"]),
        curves=pd.DataFrame({"method": ["uniform"], "epoch": [1], "train_loss": [0.5]}),
        searches={"search": [Iteration(Trajectory(widths, tau), law, (9,) * 8, 12.0)]},
    )


@pytest.mark.parametrize(
    ("arch", "data", "found"),
    [
        ("vgg11", "cifar10", "cifar10"),
        ("vgg11", "folder-cifar10-jpeg", "cifar10"),
        ("vgg11", "cifar100", "cifar100"),
        ("vgg11", "tiny-imagenet", None),
        ("mobilenetv2", "tiny-imagenet", "tiny-imagenet"),
        ("vgg11", "digits", None),
    ],
)
def test_the_published_data_set_is_found_by_name(arch: str, data: str, found: str | None) -> None:
    assert published_data(arch, data) == found


def test_published_numbers_equal_those_in_the_paper() -> None:
    """Table 1: 91.13 after one iteration, 91.12 for Li et al.; Table 4: 67.04 for P = 2."""
    vgg = {
        (row["method"], row["width_ratio"]): row[BEST_EPOCH]
        for row in published_accuracies("vgg11", "cifar10").to_dict("records")
    }
    assert vgg["neuralscale-iter1", 0.25] == pytest.approx(91.13, abs=0.005)
    assert vgg["magnitude", 0.75] == 91.12
    (line,) = published_lines("mobilenetv2", "cifar100", ["neuralscale-P2"])
    assert line.accuracy[0] == pytest.approx(67.04, abs=0.005)
    (uniform,) = published_lines("vgg11", "cifar10", ["uniform"])
    assert uniform.params[0] == 579_786
    assert "best test epoch 88.18 %" in uniform.text[0]
    assert published_widths("vgg11", "cifar10").shape == (15, 8)
    assert published_widths("vgg11", "cifar100").empty


def test_a_table_shows_published_and_measured_numbers_side_by_side(results: Results) -> None:
    own = results.outcomes.replace({"method": {"neuralscale": "neuralscale-iter1"}})
    methods = {"uniform": "Uniform", "neuralscale-iter1": "NeuralScale (iteration 1)"}
    rows = table_rows(methods, own, published_accuracies("vgg11", "cifar10"))
    uniform, law = (row for row in rows if row["ratio"] == 0.25)
    found = uniform["name"], uniform["published"], uniform["published_n"]
    assert found == ("Uniform", "88.18 ± 0.17", "5")
    assert (uniform["best"], uniform["last"], uniform["n"]) == ("88.50 ± 0.71", "87.50 ± 0.71", "2")
    assert (law["best"], law["params"], law["latency"]) == ("90.50", "0.58 M", "1.00")
    wide = next(row for row in rows if row["ratio"] == 2)
    assert wide["published"]
    assert wide["best"] == wide["n"] == ""


def test_the_paper_page_has_all_tables_and_names_a_copied_data_set(results: Results) -> None:
    page = render_paper(results, "cifar10")
    for part in ("Table 1", "Table 3", "Figure 2", "Figure 3", "Figure 4a", "Figure 7b"):
        assert f"<h2>{part}</h2>" in page
    assert "by its name a copy of cifar10" in page
    assert "<b>90.50</b>" in page  # the last of one iteration is iteration 1
    assert "figure-descent-here" in page
    assert "figure-descent-published" in page


def test_short_trainings_are_not_bold_and_are_marked_as_shorter(results: Results) -> None:
    short = results.settings | {"training": {"epochs": 12, "val_fraction": 0.02}}
    page = render_paper(replace(results, settings=short | {"data": {"train": 4900}}), "cifar10")
    assert "<b>90.50</b>" not in page
    assert "<td>90.50</td>" in page
    assert "<b>Here</b>: 12 epochs on 4,900 training images" in page
    assert "<b>Published</b>: 300 epochs" in page
    assert "The trainings here are shorter than the published ones" in page
    assert "shorter than the published" not in render_paper(results, "cifar10")


def test_missing_points_are_folded_and_not_drawn(results: Results) -> None:
    page = render_paper(results, "cifar10").partition("<h2>Table 1</h2>")[2]
    shown, _, folded = page.partition("</details>")[0].partition("<details>")
    assert "88.50 ± 0.71" in shown
    assert "<td>2x</td>" not in shown
    assert "<td>2x</td>" in folded
    other = replace(results, outcomes=results.outcomes.query("method == 'mine'"))
    assert "figure-Figure-4a" in page
    assert "figure-Figure-4a" not in render_paper(other, "cifar10")


def test_a_search_by_another_protocol_is_not_compared(results: Results) -> None:
    other = replace(results, settings=results.settings | {"search": {"pretrain_epochs": 3}})
    page = render_paper(other, "cifar10")
    assert "<b>90.50</b>" not in page
    assert "<b>88.50 ± 0.71</b>" in page


def test_published_laws_are_drawn_alone_without_a_search(results: Results) -> None:
    page = render_paper(replace(results, searches={}), "cifar10")
    assert "figure-descent-here" not in page
    assert "figure-descent-published" in page
    assert "Nothing was searched here" in page


def test_only_the_papers_protocol_gets_a_paper_page(results: Results, tmp_path: Path) -> None:
    page = write_paper(results, tmp_path / "paper")
    assert page == tmp_path / "paper" / "paper.html"
    assert "<h2>Table 1</h2>" in page.read_text()
    short = replace(results, settings=results.settings | {"preset": "quick"})
    with pytest.raises(NsoptError, match="does not follow the paper"):
        write_paper(short, tmp_path)
    unknown = replace(results, task=replace(results.task, data="folder-mine"))
    with pytest.raises(NsoptError, match="the paper has no vgg11 on folder-mine"):
        write_paper(unknown, tmp_path)
    assert not (tmp_path / "paper.html").exists()


def test_the_command_fails_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([f"sqlite:///{tmp_path / 'none.db'}", str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("nothing is stored at sqlite:///")
