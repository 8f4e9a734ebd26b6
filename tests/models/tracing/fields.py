"""Small networks of other fields than images, and of images as beginners write them."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Viewed(nn.Module):
    """LeNet: `view` needs channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.hidden, self.out = nn.Linear(16 * 25, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.a(x).relu(), 2)
        x = functional.max_pool2d(self.b(x).relu(), 2)
        logits: Tensor = self.out(self.hidden(x.view(x.size(0), -1)).relu())
        return logits


class Volumes(nn.Module):
    """A 3-D U-Net, whose tensors have no channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv3d(1, 8, 3, 1, 1), nn.BatchNorm3d(8), nn.Conv3d(8, 16, 3)
        self.up, self.out = nn.ConvTranspose3d(16, 8, 3), nn.Conv3d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.norm(self.a(x)).relu()
        mask: Tensor = self.out(torch.cat([a, self.up(self.b(a).relu())], 1))
        return mask
