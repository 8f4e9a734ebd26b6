"""Claim: workers killed at any moment, and servers that go away, lose no trial and run none twice.

A sequence runs short trials in three workers on an SQLite file or on PostgreSQL. All of them
enqueue every point at the same moment. At random moments one of them is killed (SIGKILL) and
started again; a server is stopped hard, and started after some seconds. In the end every point has
one completed trial with the value that an uninterrupted run gives it, no trial is running or
waiting, and only duplicates of a point have failed.

benchmarks/crashes.py does the same to whole studies, which takes hours.
"""

import argparse
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmarks.common import show
from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError, StorageError
from nsopt.progress import Silent
from nsopt.storage import engine
from nsopt.storage.opening import open_storage, sqlite_url
from tests.conftest import free_port
from tests.e2e.test_cluster import Server

POINTS, WORKERS = range(16), 3
_fork = multiprocessing.get_context("fork")


class Work:
    """Runs a trial in a moment. Its value depends on the sampler's seed, which is its point."""

    compute = Compute(torch.device("cpu"), bf16=False)

    def point(self, trial: FrozenTrial) -> int:
        return int(trial.user_attrs["point"])

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        return RandomSampler(seed=self.point(trial))

    def run(self, trial: Trial) -> list[float]:
        time.sleep(0.1)
        value = trial.suggest_float("x", 0.0, 1.0)
        trial.set_user_attr("value", value)
        return [value]

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        raise error


def work(url: str) -> None:
    """Do what a worker does; heartbeats are shorter."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    engine.HEARTBEAT_SECONDS, engine.POLL_SECONDS, engine.DEAD_AFTER_LOOKS = 0.3, 0.2, 10
    storage = None
    while storage is None:
        with suppress(StorageError):  # a worker does not wait for a server to start
            storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)

    def enqueue(point: int) -> None:
        study.enqueue_trial({}, user_attrs={"point": point})

    engine.run_trials(study, POINTS, enqueue, Work(), Silent())


def start(function: Callable[..., None], *arguments: Any) -> Any:
    process = _fork.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


@contextmanager
def served(kind: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the URL of a new storage, and its server if it has one."""
    if kind == "sqlite":
        yield sqlite_url(folder / "study.db"), None
        return
    server = Server(folder, free_port())
    server.create()
    try:
        yield server.url, server
    finally:
        server.stop()


def run_sequence(kind: str, generator: random.Random, kills: int, outages: int) -> Counter[str]:
    """Run all points to their end; return how often what happened."""
    with (
        tempfile.TemporaryDirectory(prefix="killed-workers-") as folder,
        served(kind, Path(folder)) as (url, server),
    ):
        events = ["kill"] * kills + ["outage"] * (outages if server else 0)
        generator.shuffle(events)
        workers = [start(work, url) for _ in range(WORKERS)]
        for event in events:
            time.sleep(generator.uniform(0.1, 1.5))
            if event == "kill":
                number = generator.randrange(WORKERS)
                workers[number].kill()
                workers[number].join()
                workers[number] = start(work, url)
            else:
                server.stop()
                time.sleep(generator.uniform(0.5, 4.0))
                server.start()
        for worker in workers:
            worker.join(300)
        checking = start(check, url)  # so that no connection is open here when a process is forked
        checking.join(300)
        codes = [each.exitcode for each in (*workers, checking)]
        if any(codes):
            raise SystemExit(f"{kind}: workers and the check ended with {codes}")
    return Counter(events)


def check(url: str) -> None:
    """Exit unless every point has one completed trial, with its value, and nothing else is left."""
    found: Sequence[FrozenTrial] = optuna.load_study(
        study_name="s", storage=open_storage(url)
    ).trials
    done = [trial for trial in found if trial.state == TrialState.COMPLETE]
    values = {trial.user_attrs["point"]: trial.values[0] for trial in done}
    expected = {point: expected_value(point) for point in POINTS}
    others = [trial for trial in found if trial not in done]
    if len(done) != len(POINTS) or values != expected:
        raise SystemExit(f"{len(done)} completed trials with {values} instead of {expected}")
    if strays := [trial for trial in others if "duplicate_of" not in trial.user_attrs]:
        raise SystemExit(f"left behind: {strays}")


def expected_value(point: int) -> float:
    study = optuna.create_study(sampler=RandomSampler(seed=point))
    return study.ask().suggest_float("x", 0.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 sequences instead of 30")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="sqlite,postgresql")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    results: dict[str, Any] = {}
    for kind in options.kinds.split(","):
        total: Counter[str] = Counter()
        for number in range(3 if options.quick else 30):
            generator = random.Random(f"{options.seed}-{kind}-{number}")
            total += run_sequence(kind, generator, kills=4, outages=2)
            total["sequences"] += 1
        results |= {f"{kind}_{name}": count for name, count in sorted(total.items())}
    show(results, options.json)


if __name__ == "__main__":
    main()
