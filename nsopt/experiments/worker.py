"""One of the processes that work on a comparison: it runs what waits in its studies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from optuna.study import Study

from nsopt.compute.device import resolve_compute
from nsopt.descent.iterations import is_complete
from nsopt.errors import NsoptError
from nsopt.experiments.runner import Runner, clear_finished, make_runner
from nsopt.experiments.searching import Histories, histories
from nsopt.experiments.sharing import sharing
from nsopt.experiments.task import Task, load_task
from nsopt.experiments.workspace import Workspace
from nsopt.methods.base import Method
from nsopt.methods.registry import get_method, is_method
from nsopt.progress import Progress
from nsopt.storage import schema, trials
from nsopt.storage.queue import Watch, claim, run
from nsopt.storage.studies import comparisons, has_unfinished, load_studies
from nsopt.storage.urls import hide_password


def is_ready(method: Method, found: Histories, task: Task) -> bool:
    """Whether a method can make its law, or say why there will be none."""
    settings, history = task.settings.search, found.get(task.search_kind(method.price), ())
    return len(history) >= method.search_iterations(settings) or is_complete(history, settings)


@dataclass(frozen=True, eq=False)
class Worker:
    """Works on the comparison of its runner's task with any number of others."""

    runner: Runner
    _watch: Watch = field(default_factory=Watch)
    _told: set[str] = field(default_factory=set)

    def work(self) -> int:
        """Run trials until none of the comparison waits or runs; how many it were.

        Methods that follow a search wait for it, trials of dead processes for their turn.
        """
        done = 0
        while True:
            studies = load_studies(self.runner.workspace.storage, self.runner.task.name)
            found = histories(studies)
            known = self._known({m: s for m, s in studies.items() if m not in found})
            self.runner.progress.overall(*_counted(study for _, study in known))
            if self._run_one(known, found, self.runner.with_latency_of(studies.values())):
                done += 1
                continue
            running = [self._watch.look(study) for _, study in known]
            if not any(has_unfinished(study) for _, study in known):
                return done
            self._tell_once(
                "waiting for the training of another process to end"
                if any(running)
                else "waiting for the search; if nobody runs it, repeat the study's command"
            )
            self._watch.wait()

    def _known(self, studies: Mapping[str, Study]) -> list[tuple[Method, Study]]:
        """The studies whose method is installed here; the others are left to others."""
        unknown = [name for name in studies if not is_method(name)]
        if unknown:
            self._tell_once(f"not installed here, left to others: {', '.join(unknown)}")
        return [(get_method(name), study) for name, study in studies.items() if is_method(name)]

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self.runner.progress.message(message)

    def _run_one(
        self, studies: Sequence[tuple[Method, Study]], found: Histories, runner: Runner
    ) -> bool:
        for method, study in studies:
            if is_ready(method, found, runner.task):
                claimed = claim(study, runner)
                if claimed is not None:
                    run(study, claimed, runner)
                    return True
        return False


def _counted(studies: Iterable[Study]) -> tuple[int, int]:
    """How many points of a comparison are settled, and how many there are."""
    stored = [
        trial
        for study in studies
        for trial in study.get_trials(deepcopy=False)
        if trials.read_point(trial) is not None and trials.is_settled(trial)
    ]
    return sum(trial.state.is_finished() for trial in stored), len(stored)


def join(
    name: str,
    workspace: Workspace,
    data: str | None,
    given: str | None,
    device: str,
    threads: int | None,
    child: bool,
    progress: Progress,
) -> int:
    """Work on the comparison `name` of a storage until nothing is left; trials run here.

    data: where its images lie here, if elsewhere than where it was started; given: the name of its
    architecture, if the user gave one; child: whether the study's command started this process, and
    itself prints and tidies up. Raises NsoptError if there is nothing to join.
    """
    task = load_task(_any_study(name, workspace), data, workspace.data_dir, given)
    if task.arch.summary() and not child:
        progress.message(task.arch.summary())
    with sharing(resolve_compute(device, task.settings.training.precision)) as compute:
        if threads is not None:
            torch.set_num_threads(threads)
        runner = make_runner(task, workspace, compute, progress)
        done = Worker(runner).work()
    if not child:
        clear_finished(task, workspace)
    return done


def _any_study(name: str, workspace: Workspace) -> Study:
    """One of the comparison's, all of which have the same settings."""
    if not workspace.has_storage:
        raise NsoptError(
            f"nothing is stored at {hide_password(workspace.url)}: start a study first"
        )
    studies = load_studies(workspace.storage, name)
    ready = [s for m, s in studies.items() if not schema.is_search(m) and schema.read_settings(s)]
    if not ready:
        known = ", ".join(comparisons(workspace.storage)) or "none"
        raise NsoptError(
            f"no study {name!r} to work on at {hide_password(workspace.url)}: stored are {known}"
        )
    return ready[0]
