"""Trained base networks, one per seed, that magnitude pruning starts from.

A network is kept in a checkpoint while the comparison runs: a later trial, or the same command
after an interruption, reads it instead of training again.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
        """The network that `settings` give, trained now if no checkpoint holds it.

        Of several processes that ask for it at once, one trains it and the others wait.
        """
        with seeded(settings.seed, self.compute.device):
            model = place(self.arch.build(self.arch.base_widths), self.compute.device)
        identity = training_identity(self.arch, self.arch.base_widths, self.splits, settings)
        name = f"base-seed{settings.seed}"
        trained = Checkpoint(self.folder / f"{name}.pt", identity)
        with _one_at_a_time(self.folder / f"{name}.pt.lock"):
            weights = trained.load(self.compute.device)
            if weights is not None:
                model.load_state_dict(weights)
                return model
            unfinished = Checkpoint(self.folder / f"{name}-training.pt", identity)
            progress.start(f"training what magnitude prunes, seed {settings.seed}", settings.epochs)
            train_model(model, self.splits, settings, self.compute, progress, unfinished)
            trained.save(model.state_dict())
        return model


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Let one process of this machine in; a process that dies makes room for the next."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
