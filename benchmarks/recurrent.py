"""How well is an LSTM made smaller without labels: cut, fitted, and trained to return the same?

Chirps in noise, of ten classes (start frequency and direction), through two layers of 64 units,
trained here with three seeds. Prints the accuracy on labelled chirps that nothing else sees.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn

import nsopt
from nsopt.progress import Silent
from nsopt.pruning.fitting.plan import Inputs
from nsopt.pruning.ranking import rank_by_fit

STEPS, STARTS, TRAINING, UNLABELLED, TEST = 40, 5, 5000, 2000, 4000
BUDGETS = ["macs=75%", "macs=50%", "macs=25%"]


def make_chirps(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return sequences (count, STEPS, 1) and their classes (count,)."""
    random = np.random.default_rng(seed)
    labels, time = random.integers(2 * STARTS, size=count), np.linspace(0, 1, STEPS)
    start = 3 + 1.5 * (labels % STARTS) + random.normal(0, 0.2, count)
    sweep = np.where(labels < STARTS, 4, -4) + random.normal(0, 0.6, count)
    turns = start[:, None] * time + sweep[:, None] * time**2 / 2 + random.random((count, 1))
    signal = np.sin(2 * np.pi * turns) + random.normal(0, 0.6, turns.shape)
    return torch.tensor(signal[..., None], dtype=torch.float32), torch.from_numpy(labels)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 64, 2, batch_first=True)
        self.out = nn.Linear(64, 2 * STARTS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.lstm(x)[0][:, -1])
        return out


def train(seed: int, epochs: int) -> nn.Module:
    torch.manual_seed(seed)
    model, (x, labels) = Classifier(), make_chirps(TRAINING, seed)
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * TRAINING // 100
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    for _ in range(epochs):
        for batch in torch.randperm(TRAINING).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), labels[batch]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Return the accuracy on test chirps, in percent."""
    x, labels = make_chirps(TEST, seed=1000)
    return 100 * float((model(x).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="of training the whole network")
    options = parser.parse_args()
    print("seed, budget, widths: whole, cut, fitted, trained without labels (%)")
    for seed in range(options.seeds):
        model, (inputs, _) = train(seed, options.epochs), make_chirps(UNLABELLED, 100 + seed)
        whole = accuracy(model)
        arch = nsopt.trace(model, inputs[:2])
        ranking = rank_by_fit(arch, model, Inputs(inputs), Silent())
        smaller = nsopt.compress(model, inputs, BUDGETS, epochs=10, arch=arch)
        for budget in BUDGETS:
            widths = smaller[budget].widths
            cut = arch.prune(model, ranking.pick_strongest(widths)).eval()
            fitted = nsopt.fit(model, widths, inputs, arch)
            found = (whole, *map(accuracy, (cut, fitted, smaller[budget].model)))
            print(seed, budget, widths, *(f"{one:.1f}" for one in found), flush=True)


if __name__ == "__main__":
    main()
