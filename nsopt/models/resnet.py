"""ResNet18 with pre-activation, for small images (He et al., 2016; paper, section 4).

A block's shortcut is the identity if stride is 1 and the widths are equal, else a 1x1 convolution
without BatchNorm, applied after the block's first BatchNorm and ReLU. The searched width of a
residual stream counts the channels that the next block reads: its gate is after that block's
BatchNorm and does not change the stream.
"""

from torch import Tensor, nn

from nsopt.models.architecture import TableArchitecture
from nsopt.models.layers import OperationNetwork
from nsopt.models.shortcuts import (
    Shortcuts,
    leaders,
    members,
    projection_condition,
    tie,
    variant_name,
)
from nsopt.scaling.cost import Channels, Operation

_STAGE_WIDTHS = (64, 128, 256, 512)
_BLOCKS_PER_STAGE = 2
_STRIDES = (1, 2, 2, 2)
_STRIDES_64 = (2, 2, 2, 2)  # for sides of at least 64 pixels
_BLOCKS = _BLOCKS_PER_STAGE * len(_STAGE_WIDTHS)


class ResNet(OperationNetwork):
    """Stem, eight blocks of two convolutions, BatchNorm, global average pool, classifier.

    The Identity modules `blockN_read` and `read` mark where layers read channels of the residual
    stream; `blockN_identity` marks an identity shortcut.
    """

    def __init__(self, operations: dict[str, nn.Module]) -> None:
        super().__init__(operations)
        for block in range(1, _BLOCKS + 1):
            self.add_module(f"block{block}_read", nn.Identity())
            if not self.has(f"block{block}_shortcut"):
                self.add_module(f"block{block}_identity", nn.Identity())
        self.add_module("read", nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, classes) of images (B, C, H, W)."""
        x = self.run("stem", images)
        for block in range(1, _BLOCKS + 1):
            x = self._run_block(f"block{block}", x)
        return self.run("classifier", self.run("bn", self.run("read", x)).mean(dim=(2, 3)))

    def _run_block(self, block: str, x: Tensor) -> Tensor:
        read = self.run(f"{block}_bn1", self.run(f"{block}_read", x)).relu()
        shortcut = f"{block}_shortcut"
        kept = self.run(shortcut, read) if self.has(shortcut) else self.run(f"{block}_identity", x)
        branch = self.run(f"{block}_conv1", read)
        return self.run(f"{block}_conv2", self.run(f"{block}_bn2", branch).relu()) + kept


def resnet18(
    shortcuts: Shortcuts, num_classes: int, image_size: int, in_channels: int
) -> TableArchitecture:
    """Return ResNet18 with 17 searched widths (stem, two per block), or fewer if tied."""
    stage_of = [block // _BLOCKS_PER_STAGE for block in range(_BLOCKS)]
    stage_strides = _STRIDES_64 if image_size >= 64 else _STRIDES
    strides = [
        stage_strides[stage] if block % _BLOCKS_PER_STAGE == 0 else 1
        for block, stage in enumerate(stage_of)
    ]
    base = [_STAGE_WIDTHS[0]] + [_STAGE_WIDTHS[stage] for stage in stage_of for _ in range(2)]
    joined = [
        (2 * block, 2 * block + 2)
        for block in range(_BLOCKS)
        if strides[block] == 1 and base[2 * block] == base[2 * block + 2]
    ]
    group_of = tie(len(base), joined if shortcuts == "tied" else []).tolist()
    width = [Channels(group) for group in group_of]
    blocks = [f"block{block + 1}" for block in range(_BLOCKS)]

    operations = [_make_conv("stem", Channels(None, in_channels), width[0], image_size)]
    resolution = image_size
    for block, name in enumerate(blocks):
        resolution = -(-resolution // strides[block])
        ends = (width[2 * block], width[2 * block + 1], width[2 * block + 2])
        operations += _make_block(name, ends, strides[block], resolution, shortcuts)
    operations += [
        Operation("bn", "norm", width[-1], width[-1]),
        Operation("classifier", "linear", width[-1], Channels(None, num_classes)),
    ]

    names = ["stem", *(f"{block}_conv{i}" for block in blocks for i in (1, 2))]
    gates = [*(f"{block}_bn{i}" for block in blocks for i in (1, 2)), "bn"]
    return TableArchitecture(
        name=variant_name("resnet18", shortcuts),
        layer_names=leaders(group_of, names),
        base_widths=leaders(group_of, base),
        input_shape=(in_channels, image_size, image_size),
        num_classes=num_classes,
        operations=tuple(operations),
        gates=members(group_of, gates),
        filters=members(group_of, names),
        stream_reads={
            **{f"{b}_read": group_of[2 * i] for i, b in enumerate(blocks)},
            "read": group_of[-1],
        },
        identities={
            f"{b}_identity": (group_of[2 * i], group_of[2 * i + 2]) for i, b in enumerate(blocks)
        },
        assemble=ResNet,
    )


def _make_block(
    name: str,
    ends: tuple[Channels, Channels, Channels],
    stride: int,
    resolution: int,
    shortcuts: Shortcuts,
) -> list[Operation]:
    """Return two BatchNorms and convolutions, and the shortcut.

    `ends`: channels of its input, between its convolutions, and of its output. `resolution`: side
    of the output map.
    """
    inputs, middle, outputs = ends
    return [
        Operation(f"{name}_bn1", "norm", inputs, inputs),
        _make_conv(f"{name}_conv1", inputs, middle, resolution, stride),
        Operation(f"{name}_bn2", "norm", middle, middle),
        _make_conv(f"{name}_conv2", middle, outputs, resolution),
        Operation(
            f"{name}_shortcut",
            "conv",
            inputs,
            outputs,
            stride=stride,
            bias=False,
            resolution=resolution,
            unless_equal=projection_condition(shortcuts, stride, inputs, outputs),
        ),
    ]


def _make_conv(
    name: str, inputs: Channels, outputs: Channels, resolution: int, stride: int = 1
) -> Operation:
    return Operation(name, "conv", inputs, outputs, 3, stride, bias=False, resolution=resolution)
