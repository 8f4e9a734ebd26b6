"""The weights of the best network of a study, as an Optuna artifact that the dashboard offers."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.study import Study
from torch import nn

from nsopt.compute.locks import one_at_a_time
from nsopt.data.cache import cache_folder
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.registry import get_architecture


@dataclass(frozen=True)
class BestWeights:
    """Keeps, for every study, the weights of its best network in `folder`."""

    arch: Architecture
    folder: Path

    def keep_if_best(
        self, study: Study, accuracy: float, widths: Sequence[int], model: nn.Module
    ) -> None:
        """Replace what the study keeps in this folder if that has a lower validation accuracy.

        One process at a time, so that of two that end at once the better one stays.
        """
        with one_at_a_time(cache_folder() / "locks", self.folder / study.study_name):
            known = get_all_artifact_meta(study)
            kept = self.folder / known[0].artifact_id if known else None
            if kept is not None and kept.is_file() and _accuracy(kept) >= accuracy:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            store = FileSystemArtifactStore(self.folder)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{study.study_name.replace('/', '-')}.pt"
                torch.save(self._content(accuracy, widths, model), path)
                if known:
                    with path.open("rb") as content:
                        store.write(known[0].artifact_id, content)
                else:
                    upload_artifact(
                        artifact_store=store,
                        file_path=str(path),
                        study_or_trial=study,
                        mimetype="application/octet-stream",
                    )

    def _content(self, accuracy: float, widths: Sequence[int], model: nn.Module) -> dict[str, Any]:
        channels, image_size, _ = self.arch.input_shape
        return {
            "arch": self.arch.name,
            "classes": self.arch.num_classes,
            "image_size": image_size,
            "channels": channels,
            "widths": list(widths),
            "val_accuracy": accuracy,
            "state": model.state_dict(),
        }


def load_weights(path: Path | str) -> nn.Module:
    """The network whose weights a study kept, in evaluation mode on the CPU.

    Raises NsoptError for a file that holds none.
    """
    try:
        kept = _load(path)
        arch = get_architecture(kept["arch"], kept["classes"], kept["image_size"], kept["channels"])
        model = arch.build(kept["widths"])
        model.load_state_dict(kept["state"])
    except OSError as error:
        raise NsoptError(f"no weights can be read from {path}: {error.strerror}") from None
    except Exception as error:  # whatever a foreign file makes torch raise
        raise NsoptError(f"{path} holds no weights that nsopt kept: {error}") from None
    return model.eval()


def _accuracy(path: Path) -> float:
    """Validation accuracy of the network in a file; of an older version, as of no network."""
    return float(_load(path).get("val_accuracy", -1.0))


def _load(path: Path | str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content
