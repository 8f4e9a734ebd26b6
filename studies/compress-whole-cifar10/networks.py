"""The networks of this study, and how they are trained before anything is pruned."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import nsopt
from nsopt.compute.device import Compute, resolve_compute
from nsopt.data.augmentation import TrainingBatches
from nsopt.data.images import ImageData, Splits
from nsopt.models.architecture import Architecture
from nsopt.settings import Precision
from nsopt.tasks.supervise import place_images

VAL_FRACTION = 0.04  # 2,000 of the 50,000 training images choose; they train nothing
EPOCHS = {"resnet20": 120, "resnet56": 120, "vit": 60}  # of the whole network


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1:
            projection = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        added: Tensor = self.shortcut(x) + y
        return added.relu()


class ResNet(nn.Module):
    """ResNets for CIFAR of He et al., 2016, section 4.2; shortcuts between stages are projections.

    ResNet-20 has 3 blocks a stage, ResNet-56 has 9.
    """

    def __init__(self, stage: int, classes: int = 10) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks, inputs = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for step in (stride, *[1] * (stage - 1)):
                blocks.append(Block(inputs, width, step))
                inputs = width
        self.blocks, self.linear = nn.Sequential(*blocks), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.bn(self.conv(x)).relu())
        scores: Tensor = self.linear(x.mean((2, 3)))
        return scores


class Layer(nn.Module):
    """A layer of a transformer, normalised first; heads have a fixed size, their number varies."""

    def __init__(self, width: int, head: int, hidden: int) -> None:
        super().__init__()
        self.head = head
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.hidden, self.back = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        heads = (
            made(y).view(len(y), y.shape[1], -1, self.head).transpose(1, 2)
            for made in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = x + self.output(mixed)
        added: Tensor = self.back(gelu(self.hidden(self.norm2(x))))
        return x + added


class ViT(nn.Module):
    """A small vision transformer: patches of 4x4 pixels, six layers, 1.8 M parameters."""

    def __init__(self, width: int = 192, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.layers = nn.Sequential(*(Layer(width, 32, 2 * width) for _ in range(6)))
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        scores: Tensor = self.linear(self.norm(self.layers(x)).mean(1))
        return scores


def build(name: str) -> nn.Module:
    """Return a whole network with fresh weights."""
    torch.manual_seed(0)
    return {"resnet20": partial(ResNet, 3), "resnet56": partial(ResNet, 9), "vit": ViT}[name]()


def recipe(epochs: int, seed: int = 0) -> nsopt.TrainSettings:
    """Return the settings with which a ResNet is trained, whole or smaller ones from scratch."""
    return nsopt.TrainSettings(
        epochs=epochs,
        batch_size=256,
        lr=0.2,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="linear",
        warmup_epochs=2.0,
        val_fraction=VAL_FRACTION,
        precision="fp32",
        seed=seed,
    )


def train_whole(
    name: str, arch: Architecture, data: ImageData, epochs: int, precision: Precision, folder: Path
) -> nn.Module:
    """Return the trained whole network; a ResNet continues after an interruption."""
    if name == "vit":
        compute = resolve_compute("auto", "fp32")
        splits = place_images(data.split(VAL_FRACTION), compute)
        return train_with_adamw(build(name), splits, compute, epochs)
    checkpoint = folder / f"{name}.checkpoint"
    settings = recipe(epochs).updated(precision=precision)
    return nsopt.train(arch, arch.base_widths, data, settings, checkpoint=checkpoint).model


def train_with_adamw(
    model: nn.Module, splits: Splits, compute: Compute, epochs: int, lr: float = 1e-3
) -> nn.Module:
    """Train a transformer as transformers are trained; its trainer is not nsopt's."""
    model, batches = model.to(compute.device).train(), TrainingBatches(splits, 256, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    steps = epochs * batches.per_epoch
    warm = max(steps // 20, 1)

    def factor(step: int) -> float:
        return min((step + 1) / warm, (1 + math.cos(math.pi * step / steps)) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(steps):
        images, labels = batches.next()
        optimizer.zero_grad()
        with torch.autocast(compute.device.type, torch.bfloat16):
            scores = model(images)
        cross_entropy(scores.float(), labels, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
