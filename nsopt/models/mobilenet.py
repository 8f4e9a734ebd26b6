"""MobileNetV2 for small images (Sandler et al., 2018; paper, section 4).

Every bottleneck has a shortcut: the identity if stride is 1 and the widths are equal, else a 1x1
convolution with BatchNorm. The expanded width is 6 times the input width.
"""

from collections.abc import Collection, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from nsopt.models.architecture import Architecture
from nsopt.models.families import NamedNetwork, Shortcuts, make_conv, repeat_strides, trace_blocks

_STAGES = ((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))  # width, blocks
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_STRIDES_64 = (1, 2, 2, 2, 2, 2, 1)  # for sides of at least 64 pixels
_STEM, _LAST, _EXPANSION = 32, 1280, 6


class MobileNetV2(NamedNetwork):
    """Stem, bottlenecks, a last 1x1 convolution, global average pool, classifier.

    The Identity modules `blockN_sum` and `blockN_identity` mark the sum and the identity shortcut
    of a bottleneck.

    Args:
        strides: of the bottlenecks.
        widths: of the stem, the bottlenecks and the last convolution.
        identities: names of the bottlenecks with identity shortcuts.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        strides: Sequence[int],
        widths: Sequence[int],
        identities: Collection[str],
    ) -> None:
        modules: dict[str, nn.Module] = {}

        def add(
            name: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
        ) -> None:
            modules[name] = make_conv(inputs, outputs, kernel, stride, groups=groups)
            modules[f"{name}_bn"] = nn.BatchNorm2d(outputs)

        add("stem", in_channels, widths[0], 3)
        for block, stride in enumerate(strides):
            name, (inputs, outputs) = f"block{block + 1}", widths[block : block + 2]
            expanded = (1 if block == 0 else _EXPANSION) * inputs
            add(f"{name}_expand", inputs, expanded)
            add(f"{name}_depthwise", expanded, expanded, 3, stride, groups=expanded)
            add(f"{name}_project", expanded, outputs)
            if name in identities:
                modules[f"{name}_identity"] = nn.Identity()
            else:
                add(f"{name}_shortcut", inputs, outputs, 1, stride)
            modules[f"{name}_sum"] = nn.Identity()
        add("last", widths[-2], widths[-1])
        super().__init__(modules | {"classifier": nn.Linear(widths[-1], num_classes)})
        self.blocks = len(strides)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, classes) of images (B, C, H, W)."""
        x = functional.relu6(self._run_with_norm("stem", images))
        for block in range(1, self.blocks + 1):
            x = self._run_bottleneck(f"block{block}", x)
        x = functional.relu6(self._run_with_norm("last", x))
        return self.run("classifier", x.mean(dim=(2, 3)))

    def _run_bottleneck(self, block: str, x: Tensor) -> Tensor:
        branch = functional.relu6(self._run_with_norm(f"{block}_expand", x))
        branch = functional.relu6(self._run_with_norm(f"{block}_depthwise", branch))
        branch = self._run_with_norm(f"{block}_project", branch)
        shortcut = f"{block}_shortcut"
        has_layer, identity = self.has(shortcut), f"{block}_identity"
        kept = self._run_with_norm(shortcut, x) if has_layer else self.run(identity, x)
        return self.run(f"{block}_sum", branch + kept)

    def _run_with_norm(self, name: str, x: Tensor) -> Tensor:
        return self.run(f"{name}_bn", self.run(name, x))


def mobilenetv2(
    shortcuts: Shortcuts, num_classes: int, image_size: int, in_channels: int
) -> Architecture:
    """Return MobileNetV2 with 19 searched widths (stem, 17 bottlenecks, last), or fewer if tied."""
    base = [_STEM] + [width for width, blocks in _STAGES for _ in range(blocks)] + [_LAST]
    counts = [blocks for _, blocks in _STAGES]
    strides = repeat_strides(image_size, _STRIDES, _STRIDES_64, counts)
    blocks = [f"block{block + 1}" for block in range(len(strides))]
    return trace_blocks(
        "mobilenetv2",
        shortcuts,
        partial(MobileNetV2, num_classes, in_channels),
        strides,
        base,
        (in_channels, image_size, image_size),
        names=["stem", *blocks, "last"],
        gates=["stem_bn", *(f"{block}_sum" for block in blocks), "last_bn"],
        filters=["stem", *(f"{block}_project" for block in blocks), "last"],
        followers=[f"{block}_expand" for block in blocks],
    )
