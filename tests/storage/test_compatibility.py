"""A storage that version 0.1.0 wrote is read, and continued."""

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pandas as pd
import pytest

from nsopt.reports.results import read_results
from tests.conftest import call_nsopt

STUDY = (
    *("--ratios=0.03", "--epochs=1", "--pretrain-epochs=0", "--prune-every=1"),
    *("--filters-per-step=400", "--batch-size=32", "--per-class=30"),
    *("--precision=fp32", "--device=cpu"),
)


@pytest.fixture
def old(tmp_path: Path, golden: Path) -> str:
    """The URL of a storage with three methods at one budget and one seed, and their search."""
    file = tmp_path / "study.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((golden / "storage-0.1.0.sql").read_text())
    return f"sqlite:///{file}"


def test_results_and_laws_of_an_older_version_are_read(old: str) -> None:
    results = read_results(old)
    assert results.methods == ["uniform", "magnitude", "neuralscale"]
    assert (results.outcomes["params"] <= results.outcomes["budget"]).all()
    assert len(results.curves) == 1 + 2 + 1  # fine-tuning takes two epochs
    (iteration,) = results.searches["search"]
    assert iteration.law.layers == 8
    assert call_nsopt("widths", f"--storage={old}", "--ratios=0.1").returncode == 0


def test_a_study_of_an_older_version_is_continued(old: str, tmp_path: Path) -> None:
    before = read_results(old).outcomes
    done = call_nsopt(
        "study", "--methods=uniform,neuralscale", "--seeds=2", *STUDY, f"--out={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": validation") == 2
    assert "search iteration" not in done.stdout
    after = read_results(old).outcomes
    first = (
        after.query("seed == 0")
        .sort_values("method")
        .drop(columns=list(before.filter(like="latency")))
    )
    expected = before.sort_values("method").drop(columns=list(before.filter(like="latency")))
    pd.testing.assert_frame_equal(
        first.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False
    )


def test_resized_crops_of_an_older_version_are_not_mixed_with_ours(
    old: str, tmp_path: Path
) -> None:
    """That version resized each image on its own, to whole grey levels."""
    for name in optuna.get_all_study_names(old):
        study = optuna.load_study(study_name=name, storage=old)
        cropped = {
            part: values | {"resized_crop": 0.35}
            for part, values in study.user_attrs["settings"].items()
            if part in ("search", "training")
        }
        study.set_user_attr("settings", study.user_attrs["settings"] | cropped)
    again = ("study", "--methods=uniform", "--seeds=2", "--resized-crop=0.35", *STUDY)
    done = call_nsopt(*again, f"--out={tmp_path}")
    assert done.returncode == 2
    assert "training.crop_version: 2 now, 1 there" in done.stderr
    done = call_nsopt("worker", f"--storage={old}", "--study=vgg11-digits-30each-smoke")
    assert done.returncode == 2
    assert "another version of nsopt (search.crop_version = 1" in done.stderr
