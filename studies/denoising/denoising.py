"""Widths for a network and a task of one's own: a small U-Net that takes noise off digits.

nsopt traces the network, searches its widths with a loader and a loss, and proposes widths at two
budgets through an Optuna sampler; the training is plain PyTorch. Run it with

    python studies/denoising/denoising.py

Half a minute on two cores. It prints the mean squared error of the proposed and of the uniform
networks on test images, both at most as large.
"""

from collections.abc import Sequence

import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import nsopt

NOISE = 0.5


class UNet(nn.Module):
    """Two resolutions; what the first one has seen joins the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(block(1, 24), block(24, 24))
        self.deep = nn.Sequential(nn.MaxPool2d(2), block(24, 48), block(48, 48))
        self.up = nn.ConvTranspose2d(48, 24, 2, 2)
        self.out = nn.Sequential(block(48, 24), nn.Conv2d(24, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        near = self.down(x)
        noise: Tensor = self.out(torch.cat([near, self.up(self.deep(near))], 1))
        return x - noise


def block(inputs: int, outputs: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def pairs(images: Tensor, seed: int) -> TensorDataset:
    """Noisy images and what they were: float (N, 1, 32, 32) from 0 to 1."""
    clean = images / 255
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(clean + NOISE * torch.randn(clean.shape, generator=generator), clean)


def train(model: nn.Module, data: DataLoader[tuple[Tensor, ...]], epochs: int) -> None:
    """One's own training: any optimizer, any loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for noisy, clean in data:
            optimizer.zero_grad()
            functional.mse_loss(model(noisy), clean).backward()
            optimizer.step()


@torch.no_grad()
def error(model: nn.Module, data: TensorDataset) -> float:
    noisy, clean = data.tensors
    return functional.mse_loss(model.eval()(noisy), clean).item()


def main(
    epochs: int = 6, ratios: Sequence[float] = (0.25, 0.5), images: int | None = None
) -> optuna.Study:
    """The study, with one trial for every budget and family of widths."""
    digits = nsopt.load_data("digits")
    training, test = pairs(digits.train.images[:images], 0), pairs(digits.test.images, 1)
    torch.manual_seed(0)
    loader = DataLoader(training, batch_size=64, shuffle=True)
    arch = nsopt.trace(UNet(), torch.randn(2, 1, 32, 32))
    print(arch.explain())

    settings = nsopt.SearchSettings(
        iterations=1, pretrain_epochs=2, prune_every=2, filters_per_step=4, lr=0.05
    )
    law = nsopt.search(arch, nsopt.Task(loader, functional.mse_loss), settings).law
    params = arch.cost("params")
    uniform = nsopt.uniform_curve(arch.base_widths)
    budgets = [params([max(1, int(r * w)) for w in arch.base_widths]) for r in ratios]

    def objective(trial: optuna.Trial) -> float:
        widths = nsopt.suggest_widths(trial, arch)
        torch.manual_seed(0)
        model = arch.build(widths)
        train(model, loader, epochs)
        return error(model, test)

    study = optuna.create_study()
    for family, curve in (("law", law), ("uniform", uniform)):
        study.sampler = nsopt.NeuralScaleSampler(curve, params, arch.layer_names)
        for budget in budgets:
            study.enqueue_trial({}, user_attrs={"budget": budget, "family": family})
        study.optimize(objective, n_trials=len(budgets))
    for trial in study.trials:
        widths = list(trial.params.values())
        family, budget = trial.user_attrs["family"], trial.user_attrs["budget"]
        print(f"{family:8} of {budget:6} params: {widths}, error {trial.values[0]:.5f}")
    return study


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main()
