"""Infer from an untrained network how it initialises its weights.

`reset_parameters` does not show this, because many networks initialise again in their constructors.
A tensor follows one of these laws: a constant; or uniform or normal random numbers of mean 0 whose
variance is constant, or inversely proportional to the fan-in or fan-out. Layers of PyTorch follow
PyTorch's own law unless their values contradict it. Otherwise all tensors of a kind get the law for
which variance times fan varies least. A tensor that differs from the others by more than chance
gets its own law, and so does a tensor whose mean exceeds its standard deviation. Measured numbers
are rounded to as few digits as chance allows, so that two networks that were drawn alike, with
other seeds, give the same laws.
Values that repeat, as in an identity matrix, were not drawn: they are copied if the shape is equal.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.models.tracing.originals import original_weight
from nsopt.models.tracing.stored import is_size

Fan = Literal["in", "out", "out of a group", "none"]
_UNIFORM_BOUND = 1.85  # standard deviations; uniform numbers end at 1.73, normal ones do not
_EDGE = 1.01  # by how much a bound may be exceeded: bfloat16 rounds
_FEWEST_VALUES = 8
_CHANCE = 5.0  # standard errors of a variance
_MANY = 2**20  # values of a tensor that are measured
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
        with torch.no_grad():
            if self.uniform:
                bound = self.find_bound(fans)
                tensor.uniform_(self.mean - bound, self.mean + bound)
            else:
                tensor.normal_(self.mean, math.sqrt(self.scale / fans[self.fan]))

    def find_bound(self, fans: dict[Fan, int]) -> float:
        """Return how far uniform numbers may be from their mean."""
        return math.sqrt(self.scale / fans[self.fan]) * math.sqrt(3)


@dataclass(frozen=True)
class Constant:
    """The law of a tensor whose values are all equal."""

    value: float

    def draw(self, tensor: Tensor, fans: dict[Fan, int]) -> None:
        with torch.no_grad():
            tensor.fill_(self.value)


@dataclass(frozen=True, eq=False)
class Copied:
    """The law of a tensor whose values repeat; `other` is its law at other shapes."""

    values: Tensor
    other: Drawn

    def draw(self, tensor: Tensor, fans: dict[Fan, int]) -> None:
        if tensor.shape == self.values.shape:
            tensor.copy_(self.values)
        else:
            self.other.draw(tensor, fans)


Law = Drawn | Constant | Copied


@dataclass(frozen=True)
class InitialisationLaw:
    """How a network initialises its trained parameters.

    Attributes:
        tensors: a law for each, by name.
        unknown: names of those whose values are NaN or infinite, which show no law.
    """

    tensors: dict[str, Law]
    unknown: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the parameters whose laws have numbers that were measured in the network."""
        return tuple(
            name
            for name, law in self.tensors.items()
            if isinstance(law, Drawn)
            and (law.mean or law.scale not in (_USUAL_SCALES if law.fan != "none" else (1.0,)))
        )

    @classmethod
    def of(cls, template: nn.Module, trained: Collection[str]) -> "InitialisationLaw":
        """Infer the laws of the parameters `trained` of `template`, which should be new."""
        fans = fans_of(template)
        kinds: dict[str, list[str]] = {}
        tensors: dict[str, Law] = {}
        unknown: list[str] = []
        for name in trained:
            values = _view_as_real(template.get_parameter(name))
            if not values.isfinite().all():
                unknown.append(name)
            elif drawn := _find_law_of_one(template, name, fans[name]):
                tensors[name] = drawn
            elif (values == values.flatten()[0]).all():
                tensors[name] = Constant(float(values.flatten()[0]))
            elif shifted := _infer_shifted_law(values):
                tensors[name] = shifted
            else:
                kinds.setdefault(_name_kind(template, name), []).append(name)
        for names in kinds.values():
            values_of = {name: _view_as_real(template.get_parameter(name)) for name in names}
            tensors |= _infer_laws(values_of, fans, _find_own_law(template, names[0]))
        for name, law in tensors.items():
            values = _view_as_real(template.get_parameter(name))
            if isinstance(law, Drawn) and _has_repeats(values):
                tensors[name] = Copied(values.clone(), law)
        return cls(tensors, tuple(unknown))

    def draw(self, model: nn.Module) -> None:
        """Initialise the trained parameters of `model`, a network of the same family.

        Raises NsoptError for parameters without a law.
        """
        if self.unknown:
            raise NsoptError(
                f"{self.unknown[0]} of the traced network has values that are NaN or infinite: "
                "trace one without them, or pass init= to fill new networks"
            )
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
        groups = getattr(module, "groups", 1)  # in a module of the user it may be anything
        per_group = max(1, fan_out // groups if is_size(groups) and groups > 0 else fan_out)
        result[name] = {"in": fan_in, "out": fan_out, "out of a group": per_group, "none": 1}
    return result


def _name_kind(model: nn.Module, name: str) -> str:
    """Return the kind of a tensor: the type of its module, and its name there."""
    prefix, _, attribute = name.rpartition(".")
    return f"{type(model.get_submodule(prefix)).__name__}.{attribute}"


def _find_own_law(model: nn.Module, name: str) -> Drawn | None:
    """Return PyTorch's law for a parameter of one of its own layers; None for other modules."""
    module = model.get_submodule(name.rpartition(".")[0])
    if not type(module).__module__.startswith("torch.nn."):
        return None
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Drawn("none", 1.0, uniform=False)
    return Drawn("in", 1 / 3, uniform=True)


def _find_law_of_one(model: nn.Module, name: str, fans: dict[Fan, int]) -> Drawn | None:
    """Return PyTorch's law for a bias of one value that may follow it, as its weights do.

    A number of few digits, such as 0.1, was not drawn.
    """
    module, bias = model.get_submodule(name.rpartition(".")[0]), model.get_parameter(name)
    law, weight = _find_own_law(model, name), original_weight(module)
    if not law or weight is None or not name.endswith("bias") or bias.numel() > 1:
        return None
    bound, value, largest = law.find_bound(fans) * _EDGE, bias.item(), weight.detach().abs().max()
    is_round = bool(bias == float(f"{value:.4g}"))
    return law if not is_round and abs(value) <= bound and bound / 2 < largest <= bound else None


def _infer_laws(
    tensors: dict[str, Tensor], fans: dict[str, dict[Fan, int]], default: Drawn | None
) -> dict[str, Drawn]:
    """Return the laws of tensors of one kind, by name.

    Args:
        tensors: by name.
        fans: see `fans_of`.
        default: PyTorch's law for this kind, which they all follow unless one contradicts it.
    """
    measured = {name: _measure(tensor) for name, tensor in tensors.items()}
    variances = {name: variance for name, (variance, _, _) in measured.items()}
    highest = {name: largest for name, (_, largest, _) in measured.items()}
    uniform = {n: highest[n] < _UNIFORM_BOUND * math.sqrt(variances[n]) for n in measured}
    counts = {name: count for name, (_, _, count) in measured.items()}
    if default and all(
        _agree(variances[name] * fans[name][default.fan], default.scale, counts[name])
        and (highest[name] <= default.find_bound(fans[name]) * _EDGE or not default.uniform)
        for name in tensors
    ):
        return dict.fromkeys(tensors, default)
    fan = _choose_fan(variances, counts, fans)
    scales = {name: variances[name] * fans[name][fan] for name in tensors}
    sizes = list(counts.values())
    common = float(np.quantile([*scales.values()], 0.5, method="inverted_cdf", weights=sizes))
    alike = [name for name in tensors if _agree(scales[name], common, counts[name])]
    if len(tensors) == 1:
        alike = []
    rounded = _round_scale(common, max((counts[name] for name in alike), default=1), fan)
    return {
        name: Drawn(fan, rounded, uniform[max(alike, key=counts.__getitem__)])
        if name in alike
        else Drawn(*_infer_single_law(variances[name], counts[name], fans[name]), uniform[name])
        for name in tensors
    }


def _measure(tensor: Tensor) -> tuple[float, float, int]:
    """Return variance and largest size of a tensor's values, and how many of them were read."""
    flat = tensor.detach().flatten()
    some = flat[:: max(1, len(flat) // _MANY)]
    some = (some if some.any() else flat).cpu().double()
    return float(some.square().mean()), float(some.abs().max()), len(some)


def _infer_shifted_law(tensor: Tensor) -> Drawn | None:
    """Return the law of a tensor whose mean is far from 0, else None.

    Training moves all means a little; that of scales around 1 exceeds their standard deviation.
    """
    values = tensor.cpu().double()
    mean, variance = float(values.mean()), float(values.var(correction=0))
    if values.numel() < _FEWEST_VALUES or abs(mean) < math.sqrt(variance):
        return None
    uniform = float((values - mean).abs().max()) < _UNIFORM_BOUND * math.sqrt(variance)
    mean = _round_number(mean, _CHANCE * math.sqrt(variance / values.numel()))
    return Drawn("none", _round_scale(variance, values.numel(), "none", uniform), uniform, mean)


def _infer_single_law(variance: float, count: int, fans: dict[Fan, int]) -> tuple[Fan, float]:
    """Return fan and scale of one tensor: a usual law if one fits, else its own variance."""
    for fan in _FANS:
        for usual in _USUAL_SCALES:
            if _agree(variance * fans[fan], usual, count):
                return fan, usual
    return "none", _round_scale(variance, count, "none")


def _round_scale(scale: float, count: int, fan: Fan, uniform: bool = False) -> float:
    """Return a usual scale, or a round one, from which `count` values differ only by chance.

    Without a fan the standard deviation is round, or the bound of uniform numbers.
    """
    for usual in _USUAL_SCALES if fan != "none" else ():
        if _agree(scale, usual, count):
            return usual
    chance = math.expm1(_CHANCE * math.sqrt(2 / count))
    if fan != "none":
        return _round_number(scale, scale * chance)
    times = 3 if uniform else 1
    size = math.sqrt(times * scale)
    return _round_number(size, size * chance / 2) ** 2 / times


def _round_number(value: float, error: float) -> float:
    """Return the number with the fewest digits that differs from `value` by at most `error`."""
    rounded = (float(f"{value:.{digits}e}") for digits in range(16))
    return next((number for number in rounded if abs(number - value) <= error), value)


def _agree(one: float, other: float, count: int) -> bool:
    """Return whether two variances of `count` values differ only by chance."""
    return abs(math.log(one / other)) < _CHANCE * math.sqrt(2 / count)


def _choose_fan(
    variances: dict[str, float], counts: dict[str, int], fans: dict[str, dict[Fan, int]]
) -> Fan:
    """Return the first fan for which the logarithm of variance times fan varies least.

    Tensors are weighted by their numbers of values. Differences by chance do not count.
    """
    names = [name for name in variances if counts[name] >= _FEWEST_VALUES] or list(variances)
    weights = np.array([counts[name] for name in names], dtype=float)

    def spread(fan: Fan) -> float:
        logs = np.log([variances[name] * fans[name][fan] for name in names])
        return float(
            np.average(np.square(logs - np.average(logs, weights=weights)), weights=weights)
        )

    chance = 4 * float(np.average([2 / counts[name] for name in names], weights=weights))
    spreads: dict[Fan, float] = {fan: spread(fan) for fan in (*_FANS, "none")}
    least = min(spreads.values())
    return next(fan for fan, variation in spreads.items() if variation <= least + chance)
