"""A database server that fails at any moment."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import get_storage
from optuna.study import Study
from optuna.trial import Trial
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from nsopt.storage import servers
from nsopt.storage.servers import PatientStorage


@pytest.mark.parametrize(
    "call",
    [
        lambda study, _: study.ask(),
        lambda _, trial: trial.suggest_float("x", 0, 1),
        lambda _, trial: trial.set_user_attr("note", "n"),
        lambda study, trial: study.tell(trial, 1.0),
        lambda study, _: study.get_trials(),
    ],
    ids=["ask", "suggest", "attribute", "tell", "read"],
)
def test_a_call_is_repeated_at_whichever_statement_the_server_fails(
    call: Callable[[Study, Trial], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails once, at each of the statements that the call sends."""
    monkeypatch.setattr(servers, "_RETRY_SECONDS", 0.0)
    storage = PatientStorage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=get_storage(storage))
    sent, away = [0], 0

    @event.listens_for(storage.engine, "before_cursor_execute")
    def fail(*_: Any) -> None:
        sent[0] += 1
        if sent[0] == away:
            raise OperationalError("", {}, Exception("server closed the connection"))

    while sent[0] >= away:
        trial = study.ask()
        sent[0], away = 0, away + 1
        call(study, trial)
    assert away > 1


def test_connections_close_with_their_storage(tmp_path: Path) -> None:
    storage = PatientStorage(f"sqlite:///{tmp_path / 'study.db'}")
    optuna.create_study(storage=get_storage(storage))
    pool: Any = storage.engine.pool
    assert pool.checkedin() > 0
    del storage
    gc.collect()
    assert pool.checkedin() == 0
