"""Two commands that start in the same new folder at the same moment."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import optuna

from nsopt.storage.urls import sqlite_url
from tests.forked import Forked
from tests.slim import run_slim

STUDY = (
    *("study", "--methods=uniform", "--ratios=0.1", "--seeds=2", "--epochs=1", "--per-class=20"),
    *("--precision=fp32", "--device=cpu"),
)


def test_both_work_and_run_each_point_once(tmp_path: Path) -> None:
    """In a URL, the name of the folder would end it, begin options, and be decoded."""
    out = tmp_path / "10%41?a=1#b"
    with ExitStack() as stack:
        command = [*STUDY, f"--out={out}"]
        pair = [stack.enter_context(Forked(run_slim, "nsopt", command)) for _ in range(2)]
        assert [one.wait() for one in pair] == [0, 0], [one.written() for one in pair]
    assert (out / "study.db").is_file()
    assert [folder.name for folder in tmp_path.iterdir()] == [out.name]
    name, url = "vgg11-digits-20each-smoke/uniform", sqlite_url(out / "study.db")
    found = optuna.load_study(study_name=name, storage=url).trials
    done = Counter(t.user_attrs["seed"] for t in found if t.state.name == "COMPLETE")
    assert done == {0: 1, 1: 1}
