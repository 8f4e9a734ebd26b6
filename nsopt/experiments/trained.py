"""Trained base networks, one per seed, that methods start from.

A network is kept in a checkpoint while its comparison runs: a later trial, or the same command
after an interruption, reads it instead of training again.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import Compute, place
from nsopt.compute.locks import one_at_a_time
from nsopt.compute.random_state import seeded
from nsopt.data.cache import cache_folder
from nsopt.data.images import Splits
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.training.loop import train_configuration, training_identity
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
        widths = self.arch.base_widths
        path = self.folder / f"seed{settings.seed}.pt"
        kept = Checkpoint(path, training_identity(self.arch, widths, self.splits, settings))
        with one_at_a_time(cache_folder() / "locks", path):
            with self.compute.computing():
                weights = kept.load(self.compute.device)
                if weights is not None:
                    with seeded(settings.seed, self.compute.device):
                        model = place(self.arch.build(widths), self.compute.device)
                    model.load_state_dict(weights)
                    return model
            outcome = train_configuration(
                self.arch,
                widths,
                self.splits,
                settings,
                self.compute,
                progress,
                path.with_stem(f"{path.stem}-training"),
                task=f"training the network to start from, seed {settings.seed}",
            )
            kept.save(outcome.model.state_dict())
        return outcome.model
