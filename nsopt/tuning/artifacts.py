"""The weights of the best network of a study, as an Optuna artifact that the dashboard offers."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from optuna.artifacts import (
    FileSystemArtifactStore,
    get_all_artifact_meta,
    upload_artifact,
)
from optuna.study import Study
from optuna.trial import TrialState
from torch import nn

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
        """Replace what the study has if no completed trial reached this validation accuracy."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if any(trial.values[0] >= accuracy for trial in done):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(self.folder)
        known = get_all_artifact_meta(study)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{study.study_name.replace('/', '-')}.pt"
            torch.save(_description(self.arch, widths) | {"state": model.state_dict()}, path)
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


def load_weights(path: Path | str) -> nn.Module:
    """The network whose weights a study kept, in evaluation mode on the CPU.

    Raises NsoptError for a file that holds none.
    """
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        arch = get_architecture(kept["arch"], kept["classes"], kept["image_size"], kept["channels"])
        model = arch.build(kept["widths"])
        model.load_state_dict(kept["state"])
    except OSError as error:
        raise NsoptError(f"no weights can be read from {path}: {error.strerror}") from None
    except Exception as error:  # whatever a foreign file makes torch raise
        raise NsoptError(f"{path} holds no weights that nsopt kept: {error}") from None
    return model.eval()


def _description(arch: Architecture, widths: Sequence[int]) -> dict[str, object]:
    channels, image_size, _ = arch.input_shape
    return {
        "arch": arch.name,
        "classes": arch.num_classes,
        "image_size": image_size,
        "channels": channels,
        "widths": list(widths),
    }
