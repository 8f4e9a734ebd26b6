"""Several commands and workers in one folder: none deletes unfinished work of another."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from nsopt import NsoptError, Silent
from nsopt.compute.device import Compute
from nsopt.data.registry import load_source
from nsopt.data.source import Source
from nsopt.files import hold_lock
from nsopt.latency import measure as latency
from nsopt.latency.record import Latency
from nsopt.latency.runtime import Feed
from nsopt.reports.results import read_results
from nsopt.scaling.metric import PARAMS
from nsopt.session import runner, stored
from nsopt.session import session as sessions
from nsopt.session.runner import find_latencies
from nsopt.session.searching import clear_finished, continue_searches
from nsopt.session.session import Session
from nsopt.session.stored import load_images
from nsopt.session.workspace import Workspace
from nsopt.storage import schema, trials
from nsopt.storage.engine import run_next
from nsopt.study import laws
from nsopt.study.laws import Laws, MethodRunner
from nsopt.study.plan import Comparison, run_comparison
from tests.data.test_folder import write_images
from tests.forked import Forked
from tests.study.joined import join
from tests.study.test_comparison import (
    Listener,
    load_results,
    only,
    open_studies,
    sizes_of_ratios,
)

CPU = Compute(torch.device("cpu"), bf16=False)


def test_images_that_are_normalised_or_mirrored_otherwise_do_not_continue_a_study(
    comparison: Comparison, place: Workspace
) -> None:
    data = dataclasses.replace(comparison.subject.data, mirror=True)
    task = dataclasses.replace(comparison.subject, data=data)
    normalised = task.data.normalised_by([0.485], [0.5])
    task.open_study(place.storage, "uniform", CPU)
    for data, key in (
        (normalised, r"mean: \[123\.67\d*\] now, None there; data\.std: \[127\.5\] now"),
        (dataclasses.replace(task.data, mirror=False), "mirror"),
        (dataclasses.replace(task.data, test=task.data.train), r"test: \d+ now"),
    ):
        other = dataclasses.replace(task, data=data)
        with pytest.raises(NsoptError, match=rf"was written by other settings \(data.{key}"):
            other.open_study(place.storage, "uniform", CPU)


def test_images_are_named(comparison: Comparison, place: Workspace, tmp_path: Path) -> None:
    """A worker finds its study though the folder has another name on its machine."""
    folder = write_images(tmp_path / "photos", ("train", "val", "test"))
    source = Source(f"folder:{folder}")
    task = dataclasses.replace(comparison.subject, data=load_source(source, tmp_path))
    study = task.open_study(place.storage, "uniform", CPU)
    folder.rename(tmp_path / "moved")
    images = load_images(study, f"folder:{tmp_path / 'moved'}", tmp_path)
    assert images.name == task.data.name == "folder-photos"
    write_images(tmp_path / "others", ("train", "val", "test"), size=(9, 9))
    with pytest.raises(NsoptError, match="others differs here from the data of"):
        load_images(study, f"folder:{tmp_path / 'others'}", tmp_path)


def test_workers_share_the_threads_only_while_they_run(
    comparison: Comparison, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    @contextmanager
    def note(options: Sequence[Sequence[str]], *_: Any) -> Iterator[None]:
        given.extend(word for word in options[0] if word.startswith("--threads"))
        yield

    monkeypatch.setattr(sessions, "run_local_workers", note)
    session = Session(comparison.subject, dataclasses.replace(place, workers=2), CPU, Silent())
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(2):
            with sessions.run_other_workers(session):
                assert torch.get_num_threads() == 2
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert given == ["--threads=2", "--threads=2"]


def test_a_folder_is_removed_only_if_it_contains_nothing_but_checkpoints(tmp_path: Path) -> None:
    place = Workspace("sqlite:///study.db", tmp_path)
    for study in ("a", "b"):
        place.checkpoints(study).mkdir(parents=True)
        (place.checkpoints(study) / "run.pt").touch()
    (place.checkpoints("b") / "notes.txt").touch()
    for study in ("a", "b", "c"):
        place.clear(study)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")) == [
        "checkpoints",
        "checkpoints/b",
        "checkpoints/b/notes.txt",
    ]


def write_unfinished_work(place: Workspace) -> list[Path]:
    """Write checkpoints of a search, of other studies of this comparison, and of another one."""
    files = [
        place.checkpoints(study) / name
        for study, name in (
            ("vgg11-digits-test/search", "search.pt"),
            ("vgg11-digits-test/neuralscale", "params-9-seed0.pt"),
            ("vgg11-digits-test/base", "seed0.pt"),
            ("resnet18-digits-quick/uniform", "params-9-seed0.pt"),
            ("vgg11-digits-test-tune/eta", "search.pt"),
        )
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


def start_method(comparison: Comparison, place: Workspace, name: str) -> None:
    """Leave the study of a method like a command that is killed during a training."""
    study = comparison.subject.open_study(place.storage, name, CPU)
    (method,) = only(comparison, name).methods
    trials.enqueue_point(study, comparison.points(method)[0])


@pytest.fixture
def started(comparison: Comparison, place: Workspace) -> list[Path]:
    start_method(comparison, place, "neuralscale")
    return write_unfinished_work(place)


def test_a_finished_study_keeps_the_checkpoints_of_other_work(
    comparison: Comparison, place: Workspace, started: list[Path]
) -> None:
    session = Session(comparison.subject, place, CPU, Silent())
    uniform = only(comparison, "uniform", seeds=1)
    own = MethodRunner(session, Laws(session), uniform.methods[0])
    study = comparison.subject.open_study(place.storage, "uniform", CPU)
    trials.enqueue_point(study, uniform.points(uniform.methods[0])[0])
    leftover = place.checkpoints("vgg11-digits-test/uniform") / "params-1-seed0.pt"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    assert run_next(study, own)
    clear_finished(session)
    assert all(file.exists() for file in started)
    assert not leftover.exists()


def test_a_worker_that_joined_keeps_the_checkpoints_of_other_work(
    comparison: Comparison, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remaining trials need a method that is not installed here."""
    run_comparison(only(comparison, "uniform", seeds=1), place, Silent())
    files = write_unfinished_work(place)
    start_method(comparison, place, "neuralscale")
    monkeypatch.setattr(laws, "is_method", lambda name: name != "neuralscale")
    monkeypatch.setattr(stored, "load_subject", lambda *arguments: comparison.subject)
    join("vgg11-digits-test", place, Silent(), device="cpu")
    assert all(file.exists() for file in files)


def test_commands_wait_for_searches_of_others(comparison: Comparison, place: Workspace) -> None:
    folder = place.checkpoints("vgg11-digits-test/search")
    listener = Listener()
    with Forked(hold, str(folder)) as other:
        while other.written()[0] != "inside\n":
            assert other.poll() is None, other.written()
            time.sleep(0.01)
        continue_searches(Session(comparison.subject, place, CPU, listener), {"filters": 1})
    assert listener.messages[0] == "waiting for the search of another command in this folder"
    again = Listener()
    continue_searches(Session(comparison.subject, place, CPU, again), {"filters": 1})
    assert again.messages == []


def hold(folder: str) -> None:
    """Hold the lock of `folder` like a command that searches there."""
    with hold_lock(Path(folder)):
        print("inside", flush=True)
        time.sleep(1)


def test_the_first_of_two_searches_counts(comparison: Comparison, place: Workspace) -> None:
    """Commands on two machines do not wait for each other: both add their iterations."""
    task = comparison.subject
    (found,) = continue_searches(Session(task, place, CPU, Silent()), {"filters": 1})["filters"]
    study = open_studies(place)[schema.SEARCH]
    late = dataclasses.replace(found, seconds=1e6)
    study.add_trial(trials.search_trial(late, 1, task.arch.layer_names, {}))
    (read,) = trials.read_iterations(study)
    assert read.to_dict() == found.to_dict()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices on which latencies were measured."""
    devices: list[str] = []

    def measure(clock: latency.Clock, feeds: list[Feed]) -> list[Latency]:
        conditions = latency.latency_conditions(clock.compute.device)
        devices.append(conditions["device"])
        number = float(len(devices))
        when = datetime.now(UTC).isoformat()
        found = Latency(number, repeats=1, when=when, ratio=0.5, **conditions)
        return [dataclasses.replace(found, ratio=1.0), found][: len(feeds)]

    monkeypatch.setattr(latency.Clock, "measure", measure)
    return devices


def test_a_latency_counts_only_for_the_device_and_version_that_measured_it(
    comparison: Comparison, place: Workspace, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(comparison.subject, place, CPU, Silent())
    network = session.open_study("uniform"), comparison.subject.arch.base_widths

    def latency_now() -> float:
        (found,) = find_latencies(session, [network])
        return found.median_ms

    assert latency_now() == 1
    assert latency_now() == 1
    monkeypatch.setattr(latency, "describe_device", lambda device: "another processor")
    assert latency_now() == 2
    monkeypatch.setattr(torch, "__version__", "9.0.0")
    assert latency_now() == 3
    monkeypatch.undo()
    assert latency_now() == 1
    assert len(measured) == 3


def test_a_network_that_several_methods_propose_is_measured_once(
    comparison: Comparison, place: Workspace, measured: list[str]
) -> None:
    session = Session(comparison.subject, place, CPU, Silent())
    base = comparison.subject.arch.base_widths
    uniform, tuned, other = (
        comparison.subject.open_study(place.storage, name, CPU)
        for name in ("uniform", "tuned", "neuralscale")
    )
    narrow = tuple(width - 1 for width in base)
    together = find_latencies(session, [(uniform, base), (uniform, narrow), (tuned, base)])
    assert len(measured) == 2
    assert together[0] == together[2]
    assert together[1].median_ms == together[1].ratio * together[0].median_ms
    assert find_latencies(session, [(other, narrow)]) == [together[1]]
    assert len(measured) == 2
    assert len(schema.read_latencies(uniform)) == 2


def test_networks_whose_rounds_differed_are_timed_again_at_the_end(
    comparison: Comparison, place: Workspace
) -> None:
    sizes = sizes_of_ratios(comparison.subject.arch, PARAMS, [0.5, 0.6])
    one = only(comparison, "uniform", sizes=sizes, seeds=1)
    run_comparison(one, place, Silent())
    session = Session(one.subject, place, CPU, Silent())
    first, *_ = networks = runner._find_trained(place.storage, one.subject.name)
    stored = find_latencies(session, [(n.study, n.widths) for n in networks])
    for latency_then, spread in zip(stored, (0.9, 0.01), strict=True):
        noted = dataclasses.replace(latency_then, spread=spread, when=f"{latency_then.when}1")
        schema.write_latency(first.study, noted)
    before = [find_latencies(session, [(n.study, n.widths)])[0].when for n in networks]
    runner.time_unsure(session)
    after = [find_latencies(session, [(n.study, n.widths)])[0] for n in networks]
    assert [latency.when > old for latency, old in zip(after, before, strict=True)] == [True, False]


@pytest.mark.parametrize("other", [{"precision": "bf16"}, {"batch_size": 1}, {"protocol": 3}])
def test_a_latency_under_other_conditions_does_not_count(
    comparison: Comparison, place: Workspace, measured: list[str], other: dict[str, Any]
) -> None:
    session = Session(comparison.subject, place, CPU, Silent())
    network = session.open_study("uniform"), comparison.subject.arch.base_widths
    (found,) = find_latencies(session, [network])
    assert find_latencies(session, [network]) == [found]
    (stored,) = schema.read_latencies(network[0])
    for name in [name for name in network[0].user_attrs if name.startswith("latency:")]:
        network[0].set_user_attr(name, dataclasses.asdict(stored) | other)
    assert schema.read_latencies(network[0]) == [dataclasses.replace(stored, **other)]
    find_latencies(session, [network])
    assert len(measured) == 2


def test_of_equal_counts_the_latest_wins(comparison: Comparison, place: Workspace) -> None:
    one = only(comparison, "uniform", seeds=1)
    run_comparison(one, place, Silent())
    study = place.studies(one.subject.name)["uniform"]
    stored = schema.read_latencies(study)
    for when, device, ms in (("3", "fast", 1.0), ("4", "slow", 2.0), ("5", "fast", 1.0)):
        for timed in stored:
            again = {"when": when, "device": device, "median_ms": ms}
            schema.write_latency(study, dataclasses.replace(timed, **again))
        assert set(load_results(place).outcomes["latency_ms"]) == {ms}


def test_reports_name_studies_that_are_stored(comparison: Comparison, place: Workspace) -> None:
    comparison.subject.open_study(place.storage, "uniform", CPU)
    with pytest.raises(NsoptError, match=r"unknown study 'vgg11': .*known are vgg11-digits-test"):
        read_results(place.url, "vgg11")


def test_workers_leave_unknown_methods(comparison: Comparison, place: Workspace) -> None:
    start_method(comparison, place, "uniform")
    study = comparison.subject.open_study(place.storage, "elsewhere", CPU)
    point = comparison.points(comparison.methods[0])[0]
    trials.enqueue_point(study, dataclasses.replace(point, method="elsewhere"))
    listener = Listener()
    session = Session(comparison.subject, place, CPU, listener)
    assert laws.Worker(session, Laws(session)).work() == 1
    assert listener.messages[0] == "methods not installed here, left to other workers: elsewhere"
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]


def test_more_workers_than_the_machine_can_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match=r"1,000,000 workers are too many .* give at most \d+$"):
        Workspace("sqlite:///study.db", tmp_path, workers=1_000_000)
