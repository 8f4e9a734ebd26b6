"""The best networks of a study, one for every budget, as artifacts that the dashboard offers."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.study import Study

from nsopt.compute.locks import one_at_a_time
from nsopt.data.cache import cache_folder
from nsopt.storage.kept import KeptNetwork, read_content
from nsopt.storage.trials import Point


@dataclass(frozen=True)
class BestNetworks:
    """Keeps the networks in `folder`."""

    folder: Path

    def keep_if_best(self, study: Study, network: KeptNetwork) -> None:
        """Replace what the study keeps for this budget if that has a lower validation accuracy."""
        self._keep_if_best(study, network.content)

    def keep_again(self, content: Mapping[str, Any], study: Study, point: Point) -> None:
        """The same for a network that is kept for another point already: `content` of its file."""
        place = {name: value for name, value in asdict(point).items() if name != "seed"}
        self._keep_if_best(study, {**content, **place})

    def content(self, study: Study, point: Point) -> dict[str, Any] | None:
        """Of the file that the study keeps for the budget of `point`, if it lies here."""
        known = self._artifact(study, _file_name(study, point.metric, point.budget))
        if known is None or not (self.folder / known).is_file():
            return None
        return read_content(self.folder / known)

    def _keep_if_best(self, study: Study, content: Mapping[str, Any]) -> None:
        """One process at a time, so that of two that end at once the better one stays."""
        name = _file_name(study, content["metric"], content["budget"])
        with one_at_a_time(cache_folder() / "locks", self.folder / name):
            known = self._artifact(study, name)
            kept = self.folder / known if known else None
            if kept is not None and kept.is_file() and _accuracy(kept) >= content["val_accuracy"]:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            store = FileSystemArtifactStore(self.folder)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                torch.save(dict(content), path)
                if known:
                    with path.open("rb") as file:
                        store.write(known, file)
                else:
                    upload_artifact(
                        artifact_store=store,
                        file_path=str(path),
                        study_or_trial=study,
                        mimetype="application/octet-stream",
                    )

    def files(self, study: Study) -> list[Path]:
        """Of all networks of a study that are kept here."""
        found = [self.folder / meta.artifact_id for meta in get_all_artifact_meta(study)]
        return [path for path in found if path.is_file()]

    @staticmethod
    def _artifact(study: Study, name: str) -> str | None:
        ids = [m.artifact_id for m in get_all_artifact_meta(study) if m.filename == name]
        return ids[0] if ids else None


def _file_name(study: Study, metric: str, budget: float) -> str:
    return f"{study.study_name.replace('/', '-').replace(':', '-')}-{budget:g}-{metric}.pt"


def _accuracy(path: Path) -> float:
    """Validation accuracy of the network in a file; of an older version, as of no network."""
    return float(read_content(path).get("val_accuracy", -1.0))
