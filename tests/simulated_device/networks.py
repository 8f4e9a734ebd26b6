"""Short trainings and searches of small networks."""

import torch
from torch import nn

from nsopt import SearchSettings, TrainSettings

TRAINING = TrainSettings(epochs=1, batch_size=16, lr=0.05, device="cpu", precision="fp32")
SEARCH = SearchSettings(
    pretrain_epochs=1,
    prune_every=1,
    filters_per_step=8,
    iterations=1,
    batch_size=16,
    lr=0.05,
    importance_decay=0.5,
    search_images=48,
    device="cpu",
    precision="fp32",
)


def small(num_classes: int = 2) -> nn.Module:
    """Return a network to trace."""
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 3, 2), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 24, 3), nn.BatchNorm2d(24)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, num_classes)),
    )


def dropping() -> nn.Module:
    """Return a network that draws random numbers in every step."""
    return nn.Sequential(small(), nn.Dropout(0.3))


def devices_of(model: nn.Module) -> set[torch.device]:
    """Return the devices of parameters and buffers."""
    return {tensor.device for tensor in (*model.parameters(), *model.buffers())}
