"""Which network `nsopt export` chooses, and what it stores."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import FrozenTrial, create_trial

from nsopt import NsoptError
from nsopt.cli import export
from nsopt.cli.export import ExportOptions, _choose, _with_answer
from nsopt.reports import results
from nsopt.scaling.metric import get_metric
from nsopt.storage.trials import Point


def make_trial(metric: str, budget: float) -> FrozenTrial:
    point = Point("uniform", get_metric(metric), budget, seed=0, ratio=None)
    return create_trial(values=[1.0, 1.0], user_attrs=point.attributes)


BUDGETS = (
    *(("latency", 20.0), ("macs", 2e6), ("params", 600_000.0)),
    *(("params=600000,macs=2000000", 1.0), ("params=600000,latency=20", 1.0)),
)
TRIALS = [make_trial(metric, budget) for metric, budget in BUDGETS]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("20ms", 0), ("2M", 1), ("600k", 2), ("macs=2M", 1), ("params = 600k", 2)),
        *(("macs=2M,params=600k", 3), ("params=600k,latency=20ms", 4)),
    ],
)
def test_a_budget_names_a_network_among_those_of_other_metrics(text: str, number: int) -> None:
    assert _choose(TRIALS, ExportOptions(budget=text)) is TRIALS[number]


@pytest.mark.parametrize("text", ["3M", "soon", "21ms", "params=2M", "macs=50%"])
def test_a_budget_of_no_network_is_answered_with_those_that_are_stored(text: str) -> None:
    with pytest.raises(NsoptError, match=r"choose a network with .*: stored are .*20"):
        _choose(TRIALS, ExportOptions(budget=text))


def test_a_missing_budget_is_answered_with_those_there(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [SimpleNamespace(budget=word) for word in ("100%", "macs=50%", "latency=5ms")]
    monkeypatch.setattr(results, "read_results", lambda *_: SimpleNamespace(networks=rows))
    with pytest.raises(NsoptError, match="at --budget macs=9%: stored are macs=50%, latency=5ms"):
        _with_answer(ExportOptions(budget="macs=9%"), "sqlite:///study.db")


def test_the_name_chooses_among_several_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_url: str, name: str | None) -> SimpleNamespace:
        rows = [SimpleNamespace(budget="macs=50%", widths_by="taylor-halfway")]
        return SimpleNamespace(networks=rows, name=name)

    monkeypatch.setattr(results, "read_results", read)
    chosen = _with_answer(ExportOptions(name="net-compress", budget="macs=50%"), "sqlite:///s.db")
    assert chosen.study == "net-compress/taylor-halfway"


def test_an_export_never_replaces_the_storage(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"results")
    (tmp_path / "link").symlink_to(tmp_path)
    for kind in ("sqlite", "journal"):
        storage, out = f"{kind}:///{tmp_path}/study.db", tmp_path / "link/study.db"
        with pytest.raises(NsoptError, match="is the storage of the study: name another file"):
            export.export(ExportOptions(storage=storage, out=out, format="onnx"))
