"""`nsopt worker`: take part in a comparison that another process has started."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nsopt.cli.options import Count, StorageUrl, StoredArch

# Imports inside functions keep `nsopt --help` light.


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """The options of `nsopt worker`. child: whether a study's command started it."""

    storage: StorageUrl
    """Storage URL of a study that was started."""
    study: str
    """ARCH-DATA-PRESET."""
    arch: StoredArch = None
    data: str | None = None
    """folder:PATH, where the images lie elsewhere here."""
    data_dir: Path = Path("data")
    """Where downloaded data lies."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    threads: Count | None = None
    """Threads to train with; by default one a core."""
    out: Path | None = None
    """Folder for unfinished trainings; by default runs/STUDY."""
    child: Annotated[bool, Parameter(show=False)] = False


def worker(options: WorkerOptions) -> None:
    """Join a study from any machine: run what waits in it until nothing is left."""
    from nsopt.study.processes import end_with_starter

    if options.child:
        end_with_starter()
    import optuna

    from nsopt.cli.console import console, live_progress
    from nsopt.files import check_writable
    from nsopt.storage.opening import storage_errors
    from nsopt.study.worker import join
    from nsopt.study.workspace import Workspace

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    folder = options.out or Path("runs") / options.study
    check_writable(folder, "--out")
    workspace = Workspace(options.storage, folder, options.data_dir)
    with storage_errors(options.storage), live_progress(options.child) as progress:
        done = join(
            options.study,
            workspace,
            options.data,
            options.arch,
            options.device,
            options.threads,
            options.child,
            progress,
        )
    if not options.child:
        console.print(f"trainings of {options.study} that were run here: {done}")
