"""Trained base networks, one per seed, that magnitude pruning starts from.

A network is kept in a checkpoint while the comparison runs: a later trial, or the same command
after an interruption, reads it instead of training again.
"""

import hashlib
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nsopt.data.images import Splits
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.training.checkpoint import Checkpoint
from nsopt.training.device import Compute, place, seeded
from nsopt.training.loop import train_model, training_identity
from nsopt.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainedNetworks:
    """Base networks of `arch`, trained on `splits` and kept in `folder`."""

    arch: Architecture
    splits: Splits
    compute: Compute
    folder: Path

    def get(self, settings: TrainSettings, progress: Progress) -> nn.Module:
        """The network that `settings` give, trained now if no checkpoint holds it."""
        name = self._name(settings)
        path = self.folder / f"{name}.pt"
        with seeded(settings.seed, self.compute.device):
            model = place(self.arch.build(self.arch.base_widths), self.compute.device)
        if not self._load(model, path):
            progress.start(f"training what magnitude prunes, seed {settings.seed}", settings.epochs)
            identity = training_identity(self.arch, self.arch.base_widths, self.splits, settings)
            unfinished = Checkpoint(self.folder / f"{name}-training.pt", identity)
            train_model(model, self.splits, settings, self.compute, progress, unfinished)
            self._save(model, path)
        return model

    def _name(self, settings: TrainSettings) -> str:
        sizes = [len(part) for part in (self.splits.train, self.splits.validation)]
        what = [self.arch.name, self.arch.input_shape, self.arch.num_classes, sizes]
        described = json.dumps([what, settings.model_dump()], sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()[:16]
        return f"{self.arch.name}-seed{settings.seed}-{digest}"

    def _load(self, model: nn.Module, path: Path) -> bool:
        """Whether a whole checkpoint was there and is now in `model`."""
        if not path.is_file():
            return False
        try:
            state = torch.load(path, map_location=self.compute.device, weights_only=True)
            model.load_state_dict(state)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return False
        return True

    def _save(self, model: nn.Module, path: Path) -> None:
        """Write in one step, so that an interruption leaves no half checkpoint."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".pt.part")
        torch.save(model.state_dict(), unfinished)
        os.replace(unfinished, path)
