"""MobileNetV2 for small images (Sandler et al., 2018; paper, section 4).

Every bottleneck has a shortcut: the identity if stride is 1 and the widths are equal, else a 1x1
convolution with BatchNorm. The expanded width is 6 times the input width.
"""

from torch import Tensor, nn
from torch.nn import functional

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

_STAGES = ((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))  # width, blocks
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_STRIDES_64 = (1, 2, 2, 2, 2, 2, 1)  # for sides of at least 64 pixels
_STEM, _LAST, _EXPANSION = 32, 1280, 6
_BLOCKS = sum(blocks for _, blocks in _STAGES)


class MobileNetV2(OperationNetwork):
    """Stem, 17 bottlenecks, a last 1x1 convolution, global average pool, classifier.

    The Identity modules `blockN_sum` and `blockN_identity` mark the sum and the identity shortcut
    of a bottleneck.
    """

    def __init__(self, operations: dict[str, nn.Module]) -> None:
        super().__init__(operations)
        for block in range(1, _BLOCKS + 1):
            self.add_module(f"block{block}_sum", nn.Identity())
            if not self.has(f"block{block}_shortcut"):
                self.add_module(f"block{block}_identity", nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, classes) of images (B, C, H, W)."""
        x = functional.relu6(self._run_with_norm("stem", images))
        for block in range(1, _BLOCKS + 1):
            x = self._run_bottleneck(f"block{block}", x)
        x = functional.relu6(self._run_with_norm("last", x))
        return self.run("classifier", x.mean(dim=(2, 3)))

    def _run_bottleneck(self, block: str, x: Tensor) -> Tensor:
        branch = functional.relu6(self._run_with_norm(f"{block}_expand", x))
        branch = functional.relu6(self._run_with_norm(f"{block}_depthwise", branch))
        branch = self._run_with_norm(f"{block}_project", branch)
        shortcut = f"{block}_shortcut"
        kept = (
            self._run_with_norm(shortcut, x)
            if self.has(shortcut)
            else self.run(f"{block}_identity", x)
        )
        return self.run(f"{block}_sum", branch + kept)

    def _run_with_norm(self, name: str, x: Tensor) -> Tensor:
        return self.run(f"{name}_bn", self.run(name, x))


def mobilenetv2(
    shortcuts: Shortcuts, num_classes: int, image_size: int, in_channels: int
) -> TableArchitecture:
    """Return MobileNetV2 with 19 searched widths (stem, 17 bottlenecks, last), or fewer if tied."""
    base = [_STEM] + [width for width, blocks in _STAGES for _ in range(blocks)] + [_LAST]
    strides = [
        stride if block == 0 else 1
        for stride, (_, blocks) in zip(
            _STRIDES_64 if image_size >= 64 else _STRIDES, _STAGES, strict=True
        )
        for block in range(blocks)
    ]
    joined = [(b, b + 1) for b in range(_BLOCKS) if strides[b] == 1 and base[b] == base[b + 1]]
    group_of = tie(len(base), joined if shortcuts == "tied" else []).tolist()
    width = [Channels(group) for group in group_of]
    blocks = [f"block{block + 1}" for block in range(_BLOCKS)]

    operations = _make_conv("stem", Channels(None, in_channels), width[0], image_size, kernel=3)
    resolution = image_size
    for block, name in enumerate(blocks):
        operations += _make_bottleneck(
            name,
            (width[block], width[block + 1]),
            expansion=1 if block == 0 else _EXPANSION,
            stride=strides[block],
            resolution=resolution,
            shortcuts=shortcuts,
        )
        resolution = -(-resolution // strides[block])
    operations += _make_conv("last", width[-2], width[-1], resolution)
    operations.append(Operation("classifier", "linear", width[-1], Channels(None, num_classes)))

    names = ["stem", *blocks, "last"]
    gates = ["stem_bn", *(f"{block}_sum" for block in blocks), "last_bn"]
    filters = ["stem", *(f"{block}_project" for block in blocks), "last"]
    return TableArchitecture(
        name=variant_name("mobilenetv2", shortcuts),
        layer_names=leaders(group_of, names),
        base_widths=leaders(group_of, base),
        input_shape=(in_channels, image_size, image_size),
        num_classes=num_classes,
        operations=tuple(operations),
        gates=members(group_of, gates),
        filters=members(group_of, filters),
        identities={f"{b}_identity": (group_of[i], group_of[i + 1]) for i, b in enumerate(blocks)},
        assemble=MobileNetV2,
    )


def _make_bottleneck(
    name: str,
    ends: tuple[Channels, Channels],
    expansion: int,
    stride: int,
    resolution: int,
    shortcuts: Shortcuts,
) -> list[Operation]:
    """Return expansion, depthwise convolution, projection and shortcut of a bottleneck."""
    inputs, outputs = ends
    expanded = Channels(inputs.layer, expansion)
    after = -(-resolution // stride)
    unless = projection_condition(shortcuts, stride, inputs, outputs)
    return [
        *_make_conv(f"{name}_expand", inputs, expanded, resolution),
        *_make_conv(f"{name}_depthwise", expanded, expanded, after, 3, stride, depthwise=True),
        *_make_conv(f"{name}_project", expanded, outputs, after),
        *_make_conv(f"{name}_shortcut", inputs, outputs, after, 1, stride, unless_equal=unless),
    ]


def _make_conv(
    name: str,
    inputs: Channels,
    outputs: Channels,
    resolution: int,
    kernel: int = 1,
    stride: int = 1,
    depthwise: bool = False,
    unless_equal: tuple[Channels, Channels] | None = None,
) -> list[Operation]:
    """Return a convolution with bias and its BatchNorm. `resolution`: side of the output map."""
    return [
        Operation(
            name,
            "depthwise" if depthwise else "conv",
            inputs,
            outputs,
            kernel,
            stride,
            resolution=resolution,
            unless_equal=unless_equal,
        ),
        Operation(f"{name}_bn", "norm", outputs, outputs, unless_equal=unless_equal),
    ]
