"""VGG11 with BatchNorm, for small images (paper, section 4; Simonyan & Zisserman, 2015)."""

from collections.abc import Collection, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.families import NamedNetwork, make_conv, trace_design
from nsopt.models.networks import Design

_BASE_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
_POOL_AFTER = (1, 2, 4, 6, 8)  # convolutions followed by a 2x2 max-pool
_SMALLEST_IMAGE = 2 ** len(_POOL_AFTER)


class VGG(NamedNetwork):
    """Convolutions (3x3 with bias), each with BatchNorm and ReLU; global average pool; linear
    classifier. It has no shortcuts."""

    def __init__(
        self, num_classes: int, in_channels: int, widths: Sequence[int], _: Collection[str] = ()
    ) -> None:
        modules: dict[str, nn.Module] = {}
        for layer, (inputs, outputs) in enumerate(pairwise((in_channels, *widths)), 1):
            modules[f"conv{layer}"] = make_conv(inputs, outputs, 3)
            modules[f"bn{layer}"] = nn.BatchNorm2d(outputs)
        super().__init__(modules | {"classifier": nn.Linear(widths[-1], num_classes)})
        self.layers = len(widths)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, classes) of images (B, C, H, W)."""
        x = images
        for layer in range(1, self.layers + 1):
            x = self.run(f"bn{layer}", self.run(f"conv{layer}", x))
            if layer in _POOL_AFTER:
                x = functional.max_pool2d(x, 2)
            x = x.relu()  # after the pool, which gives the same result with a quarter of the work
        return self.run("classifier", x.mean(dim=(2, 3)))


def vgg11(num_classes: int, image_size: int, in_channels: int) -> Architecture:
    """Return VGG11: 8 searched convolutions, max-pool after 1, 2, 4, 6 and 8."""
    if image_size < _SMALLEST_IMAGE:
        raise NsoptError(
            f"vgg11 halves its maps {len(_POOL_AFTER)} times and needs images of at least "
            f"{_SMALLEST_IMAGE}x{_SMALLEST_IMAGE}: use image_size={_SMALLEST_IMAGE} or more"
        )
    names = [f"conv{layer}" for layer in range(1, len(_BASE_WIDTHS) + 1)]
    design = Design(
        partial(VGG, num_classes, in_channels),
        names=names,
        gates=[name.replace("conv", "bn") for name in names],
        filters=names,
        group_of=range(len(names)),
    )
    return trace_design("vgg11", design, _BASE_WIDTHS, (in_channels, image_size, image_size))
