"""A damaged value of a storage: each command says in one line where it is, without a traceback."""

import copy
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from nsopt import NsoptError, Silent, uniform_curve
from nsopt.cli.widths import WidthsOptions, _find_law
from nsopt.compute.device import resolve_compute
from nsopt.data.registry import load_source
from nsopt.deployment.artifacts import best_trials, describe_network
from nsopt.latency.record import Latency
from nsopt.reports.page import write_report
from nsopt.reports.results import read_results
from nsopt.session import runner, workspace
from nsopt.session import stored as stored_subject
from nsopt.session.session import Session
from nsopt.session.stored import _choose_study
from nsopt.session.workspace import Workspace
from nsopt.storage import opening, schema
from nsopt.storage.opening import open_storage
from nsopt.storage.trials import TuningPoint, enqueue_point
from nsopt.study.laws import Laws, Worker
from tests.conftest import call_nsopt
from tests.e2e.test_user_errors import assert_fails

pytestmark = pytest.mark.usefixtures("slim")
URL = "sqlite:///study.db"
PREFIX = "vgg11-digits-30each-smoke"
UNIFORM, SEARCH, TUNED = (
    f"{PREFIX}/uniform",
    f"{PREFIX}/search",
    f"{PREFIX}-tune/pretrain-epochs-params-1000",
)
WRONG: tuple[Any, ...] = (0, -1, 2.5, math.nan, True, "x" * 300, [["x"]], {"a": {"b": [1]}})
MISSING = object()
LATENCY = Latency(2.0, 100, 80, "a processor", when="2026-01-01")
Path_ = tuple[str | int, ...]


@pytest.fixture
def stored(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InMemoryStorage:
    """A storage in memory with all kinds of values, which every command reads in place of the one
    it names."""
    storage = InMemoryStorage()
    shutil.copy(written / "study.db", tmp_path)
    on_disk = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    for name in (SEARCH, UNIFORM, f"{PREFIX}/neuralscale"):
        optuna.copy_study(from_study_name=name, from_storage=on_disk, to_storage=storage)
    write_what_a_short_study_lacks(optuna.load_study(study_name=UNIFORM, storage=storage))
    write_tuning(storage)
    monkeypatch.chdir(tmp_path)
    for module in (opening, workspace):
        monkeypatch.setattr(module, "open_storage", lambda url, *_: storage)
    return storage


def write_what_a_short_study_lacks(study: optuna.Study) -> None:
    widths = schema.read_task(study).base_widths
    schema.write_latency(study, replace(LATENCY, widths=widths))
    schema.widths_at(["latency"]).write(study, widths)
    model = {"constant": 1.0, "per_mac": 1e-6, "per_unit": [0.0] * len(widths)}
    schema.write_latency_model(study, model | {"runtime": "torch", "batch_size": 100})


def write_tuning(storage: InMemoryStorage) -> None:
    """A study that tuned, with a law and one trial."""
    study = optuna.load_study(study_name=UNIFORM, storage=storage)
    tuned = optuna.create_study(study_name=TUNED, storage=storage, direction="maximize")
    about, source = schema.read_task(study), schema.read_source(study)
    settings = schema.read_settings(study) | {"tuning": {"epochs": 1}}
    schema.write_identity(tuned, about, source, settings, schema.read_provenance(study), ["value"])
    schema.write_law(tuned, uniform_curve(about.base_widths))
    enqueue_point(tuned, TuningPoint(0, index=1))
    trial = tuned.ask()
    trial.suggest_float("slope", 0.0, 1.0)
    tuned.tell(trial, 50.0)


def attributes_of(storage: InMemoryStorage, name: str) -> list[dict[str, Any]]:
    """Those of a study and of its trials, which may be changed."""
    study = storage._studies[storage.get_study_id_from_name(name)]
    return [study.user_attrs, *(trial.user_attrs for trial in study.trials)]


def paths(part: Any) -> Iterator[Path_]:
    """The keys that lead to each value in dicts, and to the first in lists."""
    for key in part if isinstance(part, dict) else range(min(1, len(part))):
        yield (key,)
        if isinstance(part[key], dict | list):
            yield from ((key, *rest) for rest in paths(part[key]))


@contextmanager
def replaced(attributes: dict[str, Any], path: Path_, value: Any) -> Iterator[None]:
    before, part = copy.deepcopy(attributes), attributes
    for key in path[:-1]:
        part = part[key]  # type: ignore[index]
    if value is MISSING:
        del part[path[-1]]
    else:
        part[path[-1]] = value  # type: ignore[index]
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(before)


def damages(attributes: dict[str, Any]) -> Iterator[tuple[Path_, Any]]:
    """Each value, with some of what may be there instead; one of it inside of dicts and lists."""
    wrong = cycle((MISSING, None, *WRONG))
    for path in list(paths(attributes)):
        for value in islice(wrong, 5 if len(path) == 1 else 1):
            yield path, value


def read_search(storage: InMemoryStorage) -> None:
    """As widths does."""
    _find_law(WidthsOptions(storage=URL))


def read_tuning(storage: InMemoryStorage) -> None:
    """As compress and report do."""
    schema.read_law(optuna.load_study(study_name=TUNED, storage=storage))
    study = optuna.load_study(study_name=TUNED, storage=storage)
    schema.read_settings(study)


def read_outcomes(storage: InMemoryStorage) -> None:
    """As report does."""
    read_results(URL)


def read_networks(storage: InMemoryStorage) -> None:
    """As export and latency do."""
    study = optuna.load_study(study_name=UNIFORM, storage=storage)
    for trial in best_trials(study).values():
        describe_network(study, trial)
    runner._find_trained(storage, PREFIX)


def read_timed(storage: InMemoryStorage) -> None:
    """As widths does with budgets in milliseconds, and study."""
    study = optuna.load_study(study_name=UNIFORM, storage=storage)
    schema.read_latencies(study)
    schema.widths_at(["latency"]).read(study)


def read_work(storage: InMemoryStorage) -> None:
    """As worker does."""
    place = Workspace(URL, Path())
    own = stored_subject.load_subject(_choose_study(PREFIX, place), None, Path(), None)
    session = Session(own, place, resolve_compute("cpu", "fp32"), Silent())
    Worker(session, Laws(session))._look()


@pytest.mark.parametrize(
    ("name", "readers"),
    [
        (UNIFORM, (read_search, read_outcomes, read_networks, read_timed, read_work)),
        (SEARCH, (read_search, read_outcomes, read_work)),
        (TUNED, (read_tuning,)),
    ],
)
def test_a_damaged_value_ends_in_one_line(
    name: str,
    readers: Sequence[Callable[[InMemoryStorage], None]],
    stored: InMemoryStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stored_subject, "load_source", cache(load_source))
    told = dict[str, str | int]()
    for attributes in attributes_of(stored, name):
        for path, value in damages(attributes):
            with replaced(attributes, path, value):
                for read in readers:
                    try:
                        read(stored)
                    except NsoptError as error:
                        told[str(error)] = path[0]
    assert all(len(line.splitlines()) == 1 for line in told)
    assert "settings" in told.values()


def test_a_command_says_where_the_damage_is(stored: InMemoryStorage) -> None:
    tuning, _ = attributes_of(stored, TUNED)
    tuning["law"]["beta"] = ["a", *tuning["law"]["beta"][1:]]
    with pytest.raises(NsoptError, match=f"study {TUNED}: its 'law' is damaged .*restore the"):
        schema.read_law(optuna.load_study(study_name=TUNED, storage=stored))
    _, trial = attributes_of(stored, UNIFORM)
    trial["params"] = "many"
    done = call_nsopt("report", f"--storage={URL}", "--out=report")
    assert_fails(done, "trial 0 (trial_id 1): its 'params' is damaged (input should be a valid int")
    assert not Path("report").exists()


@pytest.mark.parametrize("place", ["file", "file/report"])
def test_a_report_needs_a_folder(written: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("precious")
    results = read_results(f"sqlite:///{written / 'study.db'}")
    with pytest.raises(NsoptError, match=r"cannot write to .* \(Not a directory\): give another"):
        write_report(results, tmp_path / place)
    assert (tmp_path / "file").read_text() == "precious"
