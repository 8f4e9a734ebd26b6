"""The best networks of a study, one for every budget, as artifacts that the dashboard offers."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.study import Study

from nsopt.compute.locks import one_at_a_time
from nsopt.data.cache import cache_folder
from nsopt.storage.kept import KeptNetwork, read_content


@dataclass(frozen=True)
class BestNetworks:
    """Keeps the networks in `folder`."""

    folder: Path

    def keep_if_best(self, study: Study, network: KeptNetwork) -> None:
        """Replace what the study keeps for this budget if that has a lower validation accuracy.

        One process at a time, so that of two that end at once the better one stays.
        """
        name = _file_name(study, network.metric, network.budget)
        with one_at_a_time(cache_folder() / "locks", self.folder / name):
            known = self._artifact(study, name)
            kept = self.folder / known if known else None
            if kept is not None and kept.is_file() and _accuracy(kept) >= network.val_accuracy:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            store = FileSystemArtifactStore(self.folder)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                network.save(path)
                if known:
                    with path.open("rb") as content:
                        store.write(known, content)
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
