"""An architecture: a family of networks indexed by widths, with its costs and its gates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.models.layers import build_operation, copy_channels
from nsopt.scaling.cost import CostModel, Operation


@dataclass(frozen=True)
class Architecture:
    """A network as a function of the widths of its L searched layers.

    layer_names, base_widths: of the searched layers, in forward order; input_shape: (C, H, W);
    operations: everything with weights, in forward order; gates: per searched layer, the path of
    the BatchNorm after which its channels are scored and masked; filters: per searched layer, the
    path of the convolution that makes its channels; assemble: joins the built operations, given
    by path, into a module.
    """

    name: str
    layer_names: tuple[str, ...]
    base_widths: tuple[int, ...]
    input_shape: tuple[int, int, int]
    num_classes: int
    operations: tuple[Operation, ...]
    gates: tuple[str, ...]
    filters: tuple[str, ...]
    assemble: Callable[[dict[str, nn.Module]], nn.Module]

    def build(self, widths: Sequence[int]) -> nn.Module:
        """A freshly initialised network; NsoptError on a wrong length or a width below 1."""
        checked = self.check_widths(widths)
        return self.assemble(
            {operation.name: build_operation(operation, checked) for operation in self.operations}
        )

    def check_widths(self, widths: Sequence[int]) -> tuple[int, ...]:
        """`widths` as a tuple of ints; NsoptError if they cannot be those of a network."""
        if len(widths) != len(self.base_widths):
            raise NsoptError(f"{self.name} has {len(self.base_widths)} widths, got {len(widths)}")
        if any(width != int(width) or width < 1 for width in widths):
            raise NsoptError(f"widths must be integers of at least 1, got {tuple(widths)}")
        return tuple(int(width) for width in widths)

    def cost(self, metric: str) -> CostModel:
        """Exact cost model for `params` or `macs` (of one image)."""
        return CostModel(metric, self.operations, len(self.base_widths))

    def gate_modules(self, model: nn.Module) -> list[nn.BatchNorm2d]:
        """The BatchNorm of each searched layer, in order."""
        modules = [model.get_submodule(path) for path in self.gates]
        return [module for module in modules if isinstance(module, nn.BatchNorm2d)]

    def filter_weights(self, model: nn.Module) -> list[Tensor]:
        """The convolution weight of each searched layer, shape (w_l, inputs, k, k)."""
        return [model.get_parameter(f"{path}.weight") for path in self.filters]

    def inherit(self, model: nn.Module, kept: Sequence[Tensor], widths: Sequence[int]) -> nn.Module:
        """A network of `widths` that starts from the kept channels of a trained `model`.

        kept: per searched layer, indices of at most `widths[l]` channels of `model`. Channels
        beyond the kept ones are freshly initialised.
        """
        smaller = self.build(widths).to(next(model.parameters()).device)
        for operation in self.operations:
            source = model.get_submodule(operation.name)
            copy_channels(operation, source, smaller.get_submodule(operation.name), kept)
        return smaller
