"""ResNet18 with pre-activation, for small images (He et al., 2016; paper, section 4).

A block's shortcut is the identity if stride is 1 and the widths are equal, else a 1x1 convolution
without BatchNorm, applied after the block's first BatchNorm and ReLU. The searched width of a
residual stream counts the channels that the next block reads: its gate is after that block's
BatchNorm and does not change the stream.
"""

from collections.abc import Collection, Sequence
from functools import partial

from torch import Tensor, nn

from nsopt.models.architecture import Architecture
from nsopt.models.families import NamedNetwork, Shortcuts, make_conv, repeat_strides, trace_blocks

_STAGE_WIDTHS = (64, 128, 256, 512)
_BLOCKS_PER_STAGE = 2
_STRIDES = (1, 2, 2, 2)
_STRIDES_64 = (2, 2, 2, 2)  # for sides of at least 64 pixels


class ResNet(NamedNetwork):
    """Stem, blocks of two convolutions, BatchNorm, global average pool, classifier.

    The Identity modules `blockN_read` and `read` mark where layers read channels of the residual
    stream; `blockN_identity` marks an identity shortcut.

    Args:
        strides: of the blocks.
        widths: of the stem, and of the two convolutions of each block.
        identities: names of the blocks with identity shortcuts.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        strides: Sequence[int],
        widths: Sequence[int],
        identities: Collection[str],
    ) -> None:
        modules: dict[str, nn.Module] = {"stem": make_conv(in_channels, widths[0], 3, bias=False)}
        for block, stride in enumerate(strides):
            name, (inputs, middle, outputs) = f"block{block + 1}", widths[2 * block : 2 * block + 3]
            modules |= {
                f"{name}_read": nn.Identity(),
                f"{name}_bn1": nn.BatchNorm2d(inputs),
                f"{name}_conv1": make_conv(inputs, middle, 3, stride, bias=False),
                f"{name}_bn2": nn.BatchNorm2d(middle),
                f"{name}_conv2": make_conv(middle, outputs, 3, bias=False),
            }
            if name in identities:
                modules[f"{name}_identity"] = nn.Identity()
            else:
                modules[f"{name}_shortcut"] = make_conv(inputs, outputs, 1, stride, bias=False)
        modules |= {"read": nn.Identity(), "bn": nn.BatchNorm2d(widths[-1])}
        super().__init__(modules | {"classifier": nn.Linear(widths[-1], num_classes)})
        self.blocks = len(strides)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, classes) of images (B, C, H, W)."""
        x = self.run("stem", images)
        for block in range(1, self.blocks + 1):
            x = self._run_block(f"block{block}", x)
        return self.run("classifier", self.run("bn", self.run("read", x)).mean(dim=(2, 3)))

    def _run_block(self, block: str, x: Tensor) -> Tensor:
        read = self.run(f"{block}_bn1", self.run(f"{block}_read", x)).relu()
        branch = self.run(f"{block}_bn2", self.run(f"{block}_conv1", read)).relu()
        branch, shortcut = self.run(f"{block}_conv2", branch), f"{block}_shortcut"
        kept = self.run(shortcut, read) if self.has(shortcut) else self.run(f"{block}_identity", x)
        return branch + kept


def resnet18(
    shortcuts: Shortcuts, num_classes: int, image_size: int, in_channels: int
) -> Architecture:
    """Return ResNet18 with 17 searched widths (stem, two per block), or fewer if tied."""
    strides = repeat_strides(image_size, _STRIDES, _STRIDES_64, [_BLOCKS_PER_STAGE] * 4)
    base = [_STAGE_WIDTHS[0]]
    base += [width for width in _STAGE_WIDTHS for _ in range(2 * _BLOCKS_PER_STAGE)]
    blocks = [f"block{block + 1}" for block in range(len(strides))]
    names = ["stem", *(f"{block}_conv{i}" for block in blocks for i in (1, 2))]
    return trace_blocks(
        "resnet18",
        shortcuts,
        partial(ResNet, num_classes, in_channels),
        strides,
        base,
        (in_channels, image_size, image_size),
        names=names,
        gates=[*(f"{block}_bn{i}" for block in blocks for i in (1, 2)), "bn"],
        filters=names,
        reads={**{f"{b}_read": 2 * i for i, b in enumerate(blocks)}, "read": len(base) - 1},
    )
