"""Keep a study's best network at every budget, as an Optuna artifact that the dashboard offers.

The best network is that of the trial with the highest validation accuracy; of equal ones that with
the smallest seed. It is an artifact of its trial, which also stores the machine and folder of the
file. A trial announces its file before it writes it, so every file belongs to a trial.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from optuna.artifacts import (
    ArtifactMeta,
    FileSystemArtifactStore,
    get_all_artifact_meta,
    upload_artifact,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nsopt.deployment.kept import read_weights, serialise, write_weights
from nsopt.errors import NsoptError
from nsopt.files import limit_name, remove_of_killed, write_whole
from nsopt.storage import internals, trials

_ID = re.compile(r"[0-9A-Za-z-]+")


def best_trials(study: Study) -> dict[tuple[str, float], FrozenTrial]:
    """Return the trials with the best networks, by metric and budget."""
    best: dict[tuple[str, float], FrozenTrial] = {}
    for trial in trials.read_completed(study):
        point = trials.read_point(trial)
        if point is not None:
            size = (point.metric.name, point.budget)
            if size not in best or _rank(trial) > _rank(best[size]):
                best[size] = trial
    return best


def describe_network(study: Study, trial: FrozenTrial) -> str:
    """Say which network one of the `best_trials` has, and where it was stored."""
    point, place = trials.read_point(trial), trials.read_location(trial)
    where = f"stored at {place}" if place else f"trained by {trials.read_worker(trial)}"
    label = point.label if point else trial.number
    return (
        f"the best network of {study.study_name}, {where} ({label}, "
        f"validation {trial.values[0]:.2f} %)"
    )


@dataclass(frozen=True)
class BestNetworks:
    """Stores the best networks in `folder`."""

    folder: Path

    def keep_if_best(self, trial: Trial, content: Mapping[str, Any]) -> None:
        """Store the network of a running trial, unless a finished trial has a better one."""
        best = best_trials(trial.study).get((content["metric"], content["budget"]))
        if best is not None and _rank(best) > (content["score"], -content["seed"]):
            return
        is_retried = trials.read_location(trial) is not None  # its process died
        trials.write_location(trial, self.folder)
        if is_retried and (announced := _list_artifacts(trial)):
            write_weights(self._path(announced[-1]), content)
            return
        with tempfile.TemporaryDirectory() as folder:
            name = limit_name(trial.study.study_name.replace("/", "-").replace(":", "-"))
            path = Path(folder) / f"{name}-{content['budget']:g}-{content['metric']}.pt"
            path.write_bytes(serialise(content))
            upload_artifact(
                artifact_store=_WholeFiles(self.folder),
                file_path=str(path),
                study_or_trial=trial,
                mimetype="application/octet-stream",
            )

    def file(self, study: Study, trial: FrozenTrial) -> Path:
        """Return the file of one of the `best_trials`. Raises NsoptError if it is not here."""
        path = self._file(study, trial)
        if path and path.is_file():
            content = _read(path)
            if content is None:
                raise NsoptError(f"{path} is damaged: restore it from a copy")
            if content.get("score") == trial.values[0]:
                return path
        raise NsoptError(
            f"{self.folder} does not contain {describe_network(study, trial)}: run this there, "
            "copy that folder to here, or start over in another one"
        )

    def clear(self, study: Study) -> None:
        """Delete the files here of networks that are no longer the best."""
        needed = {self._file(study, trial) for trial in best_trials(study).values()}
        known = set[Path | None]()
        for trial in study.get_trials(deepcopy=False):
            (known if trial.state.is_finished() else needed).add(self._file(study, trial))
        for path in known - needed:
            if path is not None:
                path.unlink(missing_ok=True)
        remove_of_killed(self.folder)

    def _file(self, study: Study, trial: FrozenTrial) -> Path | None:
        """Return the path of a trial's network, if it was stored here."""
        if trials.read_location(trial) is None:
            return None
        announced = _list_artifacts(trial, internals.storage_of(study))
        return self._path(announced[-1]) if announced else None

    def _path(self, meta: ArtifactMeta) -> Path:
        """Return an artifact's file. Raises NsoptError for an id that could leave the folder."""
        if not _ID.fullmatch(meta.artifact_id):
            raise NsoptError(
                f"the storage names an artifact {meta.artifact_id!r}, which is not a file name"
            )
        return self.folder / meta.artifact_id


class _WholeFiles(FileSystemArtifactStore):
    """Optuna's store of files, but it writes them completely or not at all."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        write_whole(self._folder / artifact_id, content_body.read())


def _rank(trial: FrozenTrial) -> tuple[float, int]:
    point = trials.read_point(trial)
    assert point is not None
    return trial.values[0], -point.seed


def _list_artifacts(owner: Any, storage: Any = None) -> list[ArtifactMeta]:
    try:
        return get_all_artifact_meta(owner, storage=storage)
    except TypeError:  # a user deleted one with the dashboard
        return []


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of a file; None if it is damaged."""
    try:
        return read_weights(path)
    except Exception:  # torch raises anything for a damaged file
        return None
