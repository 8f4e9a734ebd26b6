"""VGG11 with BatchNorm, for small images (paper, section 4; Simonyan & Zisserman, 2015)."""

from torch import Tensor
from torch.nn import functional

from nsopt.errors import NsoptError
from nsopt.models.architecture import TableArchitecture
from nsopt.models.layers import OperationNetwork
from nsopt.scaling.cost import Channels, Operation

_BASE_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
_POOL_AFTER = (0, 1, 3, 5, 7)  # searched layers followed by a 2x2 max-pool
_SMALLEST_IMAGE = 2 ** len(_POOL_AFTER)


class VGG(OperationNetwork):
    """Convolution, BatchNorm and ReLU, eight times; global average pool; linear classifier."""

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, classes) of images (B, C, H, W)."""
        x = images
        for layer in range(len(_BASE_WIDTHS)):
            x = self.run(f"bn{layer + 1}", self.run(f"conv{layer + 1}", x))
            if layer in _POOL_AFTER:
                x = functional.max_pool2d(x, 2)
            x = x.relu()  # after the pool, which gives the same result with a quarter of the work
        return self.run("classifier", x.mean(dim=(2, 3)))


def vgg11(num_classes: int, image_size: int, in_channels: int) -> TableArchitecture:
    """Return VGG11: 8 searched convolutions (3x3 with bias), max-pool after 1, 2, 4, 6 and 8."""
    if image_size < _SMALLEST_IMAGE:
        raise NsoptError(
            f"vgg11 halves its maps {len(_POOL_AFTER)} times and needs images of at least "
            f"{_SMALLEST_IMAGE}x{_SMALLEST_IMAGE}: use image_size={_SMALLEST_IMAGE} or more"
        )
    operations: list[Operation] = []
    inputs, resolution = Channels(None, in_channels), image_size
    for layer in range(len(_BASE_WIDTHS)):
        outputs = Channels(layer)
        operations += [
            Operation(f"conv{layer + 1}", "conv", inputs, outputs, 3, resolution=resolution),
            Operation(f"bn{layer + 1}", "norm", outputs, outputs),
        ]
        inputs = outputs
        resolution //= 2 if layer in _POOL_AFTER else 1
    operations.append(Operation("classifier", "linear", inputs, Channels(None, num_classes)))
    names = tuple(f"conv{layer + 1}" for layer in range(len(_BASE_WIDTHS)))
    return TableArchitecture(
        name="vgg11",
        layer_names=names,
        base_widths=_BASE_WIDTHS,
        input_shape=(in_channels, image_size, image_size),
        num_classes=num_classes,
        operations=tuple(operations),
        gates=tuple((name.replace("conv", "bn"),) for name in names),
        filters=tuple((name,) for name in names),
        assemble=VGG,
    )
