"""Draw the parameters of new networks with the mean and spread that they have in the traced one.

The standard deviation of a weight is larger by sqrt(n / m) where n inputs became m. An embedding,
a bias, and a parameter that a module does not call a weight keep theirs. A tensor of equal values
keeps its value. One of which at most half of the values are distinct, such as an identity matrix,
was not drawn: a new one of the same shape gets its values.
"""

import math
import re
from collections.abc import Collection

import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError

_WEIGHT = re.compile(r"weight[^.]*(\.original\d*)?$")  # also a parametrised one
_EMBEDDINGS = nn.Embedding | nn.EmbeddingBag
_FEW = 256  # values of a tensor that show whether they repeat


@torch.no_grad()
def draw_parameters(model: nn.Module, template: nn.Module, names: Collection[str]) -> None:
    """Draw parameters of `model`, by name, as those of `template`, which should be untrained.

    Raises NsoptError if values of the template are NaN or infinite.
    """
    for name in names:
        values, new = (_view_as_real(each.get_parameter(name)) for each in (template, model))
        module = model.get_submodule(name.rpartition(".")[0])
        has_fan = _WEIGHT.search(name) and not isinstance(module, _EMBEDDINGS)
        spread, mean = torch.std_mean(values.double(), correction=0)
        if not spread.isfinite():
            raise NsoptError(
                f"{name} of the traced network has values that are NaN or infinite: trace one "
                "without them"
            )
        if (values == values.flatten()[0]).all():
            new.fill_(values.flatten()[0])
        elif new.shape == values.shape and _has_repeats(values):
            new.copy_(values)
        else:
            ratio = math.prod(values.shape[1:]) / math.prod(new.shape[1:]) if has_fan else 1.0
            new.normal_(float(mean), float(spread) * math.sqrt(ratio))
        if isinstance(module, _EMBEDDINGS):
            module._fill_padding_idx_with_zero()


def _view_as_real(parameter: Tensor) -> Tensor:
    """Return a view of the values; of complex values, the real and imaginary parts."""
    values = parameter.detach()
    return torch.view_as_real(values) if values.is_complex() else values


def _has_repeats(values: Tensor) -> bool:
    """Return whether at most half of the values are distinct; in a large tensor, of some values."""
    flat = values.flatten()
    some = flat[:: max(1, len(flat) // _FEW)]
    return 2 * len(some.unique()) <= len(some)
