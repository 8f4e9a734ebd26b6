"""`nsopt worker`: join a study that another process has started."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nsopt.cli.console import console, live_progress
from nsopt.cli.options import (
    ComputeOptions,
    MeasureOptions,
    StoredDataOptions,
    refuse_options_of_images,
)
from nsopt.cli.values import GivenPath, StorageOptions
from nsopt.files import RUNS, STUDY_FILE, check_writable
from nsopt.session.processes import end_with_starter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WorkerOptions(ComputeOptions, MeasureOptions, StoredDataOptions, StorageOptions):
    """The options of `nsopt worker`; `nsopt study --workers` starts a `child`."""

    study: str
    """The study to join: ARCH-DATA-PRESET."""
    out: GivenPath = None
    """Folder for networks and unfinished trainings; by default that of a file study.db, as the
    study's own command writes it, or else runs/STUDY."""
    child: Annotated[bool, Parameter(show=False)] = False


def worker(options: WorkerOptions) -> None:
    """Join a study from any machine: run its waiting trials until none is left."""
    if options.child:
        end_with_starter()
    elif options.task is not None:
        refuse_options_of_images(options)
    import optuna

    from nsopt.compression.fine_tuning import FineTuning
    from nsopt.compression.fits import Fits
    from nsopt.session.searching import clear_finished
    from nsopt.session.stored import join_session
    from nsopt.session.workspace import Workspace
    from nsopt.storage.schema import is_compression
    from nsopt.study.laws import Laws, Worker

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    url = options.find_url()
    folder = options.out or _find_folder(url, options.study)
    check_writable(folder, "--out")
    workspace = Workspace(url, folder, options.data_dir)
    with live_progress(options.child) as progress:
        session = join_session(
            options.study,
            workspace,
            progress,
            data=options.data,
            arch_name=options.arch,
            measure=options.measure,
            task=options.task,
            device=options.device,
            threads=options.threads,
        )
        if not options.child and session.subject.arch.summary():
            progress.message(session.subject.arch.summary())
        if is_compression(session.studies()):
            done = FineTuning(session, Fits(session)).run_waiting()
        else:
            done = Worker(session, Laws(session)).work()
        if not options.child:  # else the study's command cleans up
            clear_finished(session)
    if not options.child:
        console.print(f"this worker ran {done} trainings of {options.study}")


def _find_folder(url: str, study: str) -> Path:
    from nsopt.storage.opening import storage_file

    file = storage_file(url)
    return file.parent if file is not None and file.name == STUDY_FILE else RUNS / study
