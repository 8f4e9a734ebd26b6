"""Infer from an untrained network how it initialises its weights.

`reset_parameters` does not show this, because many networks initialise again in their constructors.
A tensor follows one of these laws: a constant; or uniform or normal random numbers of mean 0 whose
variance is constant, or inversely proportional to the fan-in or fan-out. All tensors of a kind get
the law for which variance times fan varies least. A tensor that differs from the others by more
than chance gets its own law, and so does a tensor whose mean exceeds its standard deviation.
Values that repeat, as in an identity matrix, were not drawn: they are copied if the shape is equal.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.models.tracing.originals import original_weight

Fan = Literal["in", "out", "out of a group", "none"]
_UNIFORM_BOUND = 1.85  # standard deviations; uniform numbers end at 1.73, normal ones do not
_FEWEST_VALUES = 8
_CHANCE = 5.0  # standard errors of a variance
_FEW = 256  # values of a tensor that show whether they repeat
_FANS: tuple[Fan, ...] = ("in", "out", "out of a group")
_USUAL_SCALES = (2.0, 1.0, 1 / 3)  # He, Glorot or LeCun, and PyTorch's modules


@dataclass(frozen=True)
class Drawn:
    """The law of random numbers with variance `scale / fan`."""

    fan: Fan
    scale: float
    uniform: bool
    mean: float = 0.0

    def draw(self, tensor: Tensor, fans: dict[Fan, int]) -> None:
        """Fill a tensor according to this law, in place."""
        deviation = math.sqrt(self.scale / fans[self.fan])
        with torch.no_grad():
            if self.uniform:
                bound = deviation * math.sqrt(3)
                tensor.uniform_(self.mean - bound, self.mean + bound)
            else:
                tensor.normal_(self.mean, deviation)


@dataclass(frozen=True)
class Filled:
    """The law of a tensor whose values are all equal."""

    value: float

    def draw(self, tensor: Tensor, fans: dict[Fan, int]) -> None:
        """Fill a tensor according to this law, in place."""
        with torch.no_grad():
            tensor.fill_(self.value)


@dataclass(frozen=True, eq=False)
class Copied:
    """The law of a tensor whose values repeat; `other` is its law at other shapes."""

    values: Tensor
    other: Drawn

    def draw(self, tensor: Tensor, fans: dict[Fan, int]) -> None:
        """Fill a tensor according to this law, in place."""
        if tensor.shape == self.values.shape:
            tensor.copy_(self.values)
        else:
            self.other.draw(tensor, fans)


Law = Drawn | Filled | Copied


@dataclass(frozen=True)
class InitialisationLaw:
    """How a network initialises its trained parameters: a law for each, by name."""

    tensors: dict[str, Law]

    @classmethod
    def of(cls, template: nn.Module, trained: Collection[str]) -> "InitialisationLaw":
        """Infer the laws of the parameters `trained` of `template`, which should be new."""
        fans = fans_of(template)
        kinds: dict[str, list[str]] = {}
        tensors: dict[str, Law] = {}
        for name in trained:
            values = _view_as_real(template.get_parameter(name))
            if (values == values.flatten()[0]).all():
                tensors[name] = Filled(float(values.flatten()[0]))
            elif shifted := _infer_shifted_law(values):
                tensors[name] = shifted
            else:
                kinds.setdefault(_name_kind(template, name), []).append(name)
        for names in kinds.values():
            tensors |= _infer_laws(
                {name: _view_as_real(template.get_parameter(name)) for name in names}, fans
            )
        for name, law in tensors.items():
            values = _view_as_real(template.get_parameter(name))
            if isinstance(law, Drawn) and _has_repeats(values):
                tensors[name] = Copied(values.clone(), law)
        return cls(tensors)

    def draw(self, model: nn.Module) -> None:
        """Initialise the trained parameters of `model`, a network of the same family."""
        fans = fans_of(model)
        for name, parameter in model.named_parameters():
            if name in self.tensors:
                self.tensors[name].draw(_view_as_real(parameter), fans[name])
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.requires_grad:
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


def fans_of(model: nn.Module) -> dict[str, dict[Fan, int]]:
    """Return fan-in and fan-out of every parameter, by name.

    A bias has the fans of its weight. In a recurrent layer both are the hidden size.
    """
    parameters = dict(model.named_parameters())
    result: dict[str, dict[Fan, int]] = {}
    for name, parameter in parameters.items():
        prefix, _, _ = name.rpartition(".")
        module = model.get_submodule(prefix)
        weight = original_weight(module)
        shape = (parameter if parameter.ndim > 1 or weight is None else weight).shape
        field = math.prod(shape[2:])
        fan_in, fan_out = (math.prod(shape[1:]), shape[0] * field) if len(shape) > 1 else (1, 1)
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            fan_in = fan_out = int(module.hidden_size)
        groups = getattr(module, "groups", 1)
        per_group = max(1, fan_out // groups)
        result[name] = {"in": fan_in, "out": fan_out, "out of a group": per_group, "none": 1}
    return result


def _name_kind(model: nn.Module, name: str) -> str:
    """Return the kind of a tensor: the type of its module, and its name there."""
    prefix, _, attribute = name.rpartition(".")
    return f"{type(model.get_submodule(prefix)).__name__}.{attribute}"


def _infer_laws(tensors: dict[str, Tensor], fans: dict[str, dict[Fan, int]]) -> dict[str, Drawn]:
    """Return the laws of tensors of one kind, by name."""
    values = {name: tensor.detach().cpu().double() for name, tensor in tensors.items()}
    variances = {name: float(value.square().mean()) for name, value in values.items()}
    counts = {name: value.numel() for name, value in values.items()}
    fan = _choose_fan(variances, counts, fans)
    scales = {name: variances[name] * fans[name][fan] for name in tensors}
    common = _find_weighted_median(list(scales.values()), list(counts.values()))
    drawn = {}
    for name, scale in scales.items():
        uniform = _is_uniform(values[name], variances[name])
        if len(tensors) > 1 and _agree(scale, common, counts[name]):
            drawn[name] = Drawn(fan, common, uniform)
        else:
            drawn[name] = Drawn(
                *_infer_single_law(variances[name], counts[name], fans[name]), uniform
            )
    return drawn


def _infer_shifted_law(tensor: Tensor) -> Drawn | None:
    """Return the law of a tensor whose mean is far from 0, else None.

    Training moves all means a little; that of scales around 1 exceeds their standard deviation.
    """
    values = tensor.cpu().double()
    mean, variance = float(values.mean()), float(values.var(correction=0))
    if values.numel() < _FEWEST_VALUES or abs(mean) < math.sqrt(variance):
        return None
    return Drawn("none", variance, _is_uniform(values - mean, variance), mean)


def _is_uniform(values: Tensor, variance: float) -> bool:
    return bool(values.abs().max() < _UNIFORM_BOUND * math.sqrt(variance))


def _infer_single_law(variance: float, count: int, fans: dict[Fan, int]) -> tuple[Fan, float]:
    """Return fan and scale of one tensor: a usual law if one fits, else its own variance."""
    for fan in _FANS:
        for usual in _USUAL_SCALES:
            if _agree(variance * fans[fan], usual, count):
                return fan, usual
    return "none", variance


def _agree(one: float, other: float, count: int) -> bool:
    """Return whether two variances of `count` values differ only by chance."""
    return abs(math.log(one / other)) < _CHANCE * math.sqrt(2 / count)


def _choose_fan(
    variances: dict[str, float], counts: dict[str, int], fans: dict[str, dict[Fan, int]]
) -> Fan:
    """Return the fan for which the logarithm of variance times fan varies least.

    Tensors are weighted by their numbers of values.
    """
    names = [name for name in variances if counts[name] >= _FEWEST_VALUES] or list(variances)
    weights = np.array([counts[name] for name in names], dtype=float)

    def spread(fan: Fan) -> float:
        logs = np.log([variances[name] * fans[name][fan] for name in names])
        return float(
            np.average(np.square(logs - np.average(logs, weights=weights)), weights=weights)
        )

    return min((*_FANS, "none"), key=spread)


def _find_weighted_median(values: list[float], weights: list[int]) -> float:
    order = np.argsort(values)
    cumulated = np.cumsum(np.array(weights)[order])
    return values[int(order[np.searchsorted(cumulated, cumulated[-1] / 2)])]
