"""Fit a smaller network to a trained one, layer after layer, without training."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.compute.checkpoint import Checkpoint, weights_checksum
from nsopt.compute.device import use_seed
from nsopt.errors import NsoptError
from nsopt.inputs import checksum_of, count_examples, resize_batch, tensors_in
from nsopt.isolation import public
from nsopt.models.architecture import Architecture
from nsopt.models.networks import check_finite, check_has_weights
from nsopt.models.trace import trace
from nsopt.progress import Progress, Silent
from nsopt.pruning.fitting.least_squares import LeastSquares, fit_parts
from nsopt.pruning.fitting.plan import Inputs, Planned, count_arguments, make_plan
from nsopt.pruning.fitting.products import Product, find_units
from nsopt.pruning.fitting.watch import Bounds, ProductCall, ProductWatch
from nsopt.pruning.ranking import rank_by_fit
from nsopt.scaling.cost import Widths
from nsopt.tracing.makers import adopt_weights
from nsopt.tracing.originals import copy_model, tensors_of, unwrapped

RIDGE, ROWS = 0.03, 32768
_MOST_TARGETS = 2**28  # numbers of the trained network in memory: 1 GB in float32
_SMALL_FACTOR = 1e-4  # least square of a factor of outputs, relative to the mean square
# By batch, key and call: the extent, outputs, and the states that they come from, if they do.
Targets = dict[tuple[int, str, int], tuple[tuple[int, int], Tensor, Tensor | None]]


@public
def fit(
    model: nn.Module,
    widths: Widths,
    inputs: Any,
    arch: Architecture | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """Return a smaller copy of a trained network, fitted to it without training or labels.

    It keeps the units that the others predict least. Then it fits every layer by least squares to
    what the same layer of the trained network computes, in forward order.

    Args:
        model: a trained network; it does not change.
        widths: the width of each group of layers, at most those of `arch.base_widths`.
        inputs: a tensor of examples, or batches of inputs: tensors, tuples of arguments, dicts of
            keyword arguments, or pairs of one of these and targets, which are ignored. Some
            hundred examples are enough; more than 1,024 are not used.
        arch: the architecture of `model`; by default nsopt traces it.
        seed: of the random places in images and sequences to which layers are fitted.
        progress: receives steps.

    Returns:
        The smaller network, in evaluation mode. A UserWarning names the layers that nothing fits.

    Raises:
        NsoptError: for invalid widths, inputs or seed, and if no layer can be fitted.

    Examples:
        >>> arch = nsopt.trace(model, images[:2])
        >>> half = nsopt.fit(model, [width // 2 for width in arch.base_widths], images)
    """
    if not 0 <= seed < 2**32:
        raise NsoptError(f"seed must be from 0 to {2**32 - 1:,}")
    model = unwrapped(model)
    check_has_weights(model)
    check_finite(model, "the model")
    given = Inputs(inputs, count_arguments(model) if arch is None else len(arch.network.run.inputs))
    first = given.batches[0]
    few = resize_batch(first, min(2, count_examples(first)))
    model = adopt_weights(model, few)
    if arch is None:
        arch = trace(model, few)
    wanted, progress = check_widths(arch, widths), progress or Silent()
    kept = rank_by_fit(arch, model, given, progress, seed).pick_strongest(wanted)
    fitted = fit_network(arch, model, kept, given, seed=seed, progress=progress)
    fitted.check()
    return fitted.model


def check_widths(arch: Architecture, widths: Widths) -> tuple[int, ...]:
    """Return `widths` as a tuple. Raises NsoptError for widths that a fit cannot reach."""
    wanted = arch.check_widths(widths)
    for name, width, base, rigid in zip(
        arch.layer_names, wanted, arch.base_widths, arch.rigid, strict=True
    ):
        if width > base:
            raise NsoptError(f"{name} has {base} units, not {width}: give at most its own width")
        if rigid and width < base:
            raise NsoptError(
                f"the units of {name} cannot be removed one by one: leave its width at {base}"
            )
    return wanted


@dataclass(frozen=True, eq=False)
class Fitted:
    """A network after the fit.

    Attributes:
        model: the network, in evaluation mode.
        errors: by weight, the error of its outputs before it was fitted: the mean square of what
            was missing, relative to that of the outputs of the trained network.
        left: by weight, why it stays as inherited.
        recurrent: names of the layers that are fitted step by step.
    """

    model: nn.Module
    errors: dict[str, float]
    left: dict[str, str]
    recurrent: tuple[str, ...]

    def check(self) -> None:
        """Warn of recurrent layers, and of layers that stay as inherited. Raises NsoptError if all
        do."""
        if self.recurrent:
            warnings.warn(
                f"{', '.join(self.recurrent)}: fitted step by step to the states of the trained "
                "network, so that errors may add up over many steps: measure the smaller network",
                stacklevel=5,
            )
        if not self.left:
            return
        words = f"not fitted, only cut: {describe_left(self.left)}"
        if not self.errors:
            raise NsoptError(f"nothing could be fitted without training: {words}; train instead")
        warnings.warn(f"{words}. Train the smaller network", stacklevel=5)


def fit_network(
    arch: Architecture,
    model: nn.Module,
    kept: Sequence[Tensor],
    inputs: Inputs,
    ridge: float = RIDGE,
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> Fitted:
    """Return a network of the kept units, fitted to the trained one.

    Args:
        model: a trained network of base widths; it does not change.
        kept: per group, ascending indices of the units to keep.
        inputs: what both networks run on.
        ridge: how much a change of weights costs, relative to the squares of their inputs.
        rows: how many places of all inputs each layer is fitted to.
        seed: of the choice of these places.
        checkpoint: a file from which an interrupted fit continues.

    Raises:
        NsoptError: if the network does not run on the inputs, or its outputs are not finite.
    """
    large = copy_model(model).eval()
    small = arch.prune(large, kept).eval()
    identity = {
        "weights": weights_checksum(model),
        "start": weights_checksum(small),
        "inputs": checksum_of(tensors_in(inputs.batches)),
        "ridge": ridge,
        "rows": rows,
        "seed": seed,
    }
    products, left = make_plan(large, small, find_units(arch, large), kept, inputs, rows)
    fitting = _Fitting(large, small, inputs, ridge, seed, left)
    fitting.run(products, progress or Silent(), Checkpoint(checkpoint, identity))
    stepwise = {each.key.rpartition(".")[0] for each in products if each.states is not None}
    return Fitted(small, fitting.errors, left, tuple(sorted(stepwise)))


@dataclass(eq=False)
class _Fitting:
    """Fits `small`; for the attributes see `Fitted` and `fit_network`."""

    large: nn.Module
    small: nn.Module
    inputs: Inputs
    ridge: float
    seed: int
    left: dict[str, str]
    errors: dict[str, float] = field(default_factory=dict)

    def run(self, products: list[Planned], progress: Progress, checkpoint: Checkpoint) -> None:
        saved, done = checkpoint.load(next(self.small.parameters()).device), 0
        if saved is not None:
            done, self.errors = saved["done"], saved["errors"]
            self.small.load_state_dict(saved["model"])
        progress.start("layers fitted", len(products))
        for _ in range(done):
            progress.advance()
        for chunk in self._divide(products[done:]):
            targets = self._record_targets(chunk)
            for planned in chunk:
                self._fit(planned, targets)
                done += 1
                progress.advance(planned.key)
                model = self.small.state_dict()
                state = {"done": done, "errors": self.errors, "model": model}
                checkpoint.save_when_due(partial(dict[str, Any], state))
        checkpoint.remove()

    def _divide(self, products: list[Planned]) -> Iterator[list[Planned]]:
        """Yield products whose targets together fit in memory."""
        chunk: list[Planned] = []
        used = 0
        for product in products:
            numbers = len(product.kept) + (0 if product.states is None else len(product.states))
            need = product.rows * product.calls * len(self.inputs) * numbers
            if chunk and used + need > _MOST_TARGETS:
                yield chunk
                chunk, used = [], 0
            chunk.append(product)
            used += need
        if chunk:
            yield chunk

    def _watch(
        self, model: nn.Module, products: Sequence[Planned], batch: int, takes_inputs: bool
    ) -> list[ProductCall]:
        planned = {product.key: product for product in products}

        def choose(key: str, nth: int, product: Product, result: Tensor) -> Tensor:
            return planned[key].choose(nth, batch, self.seed, product, result)

        wanted = {product.key: product.calls for product in products}
        watch = ProductWatch(model, choose, wanted, takes_inputs)
        with use_seed(batch, next(model.parameters()).device):  # for networks that draw noise
            return watch.run(self.inputs.call(model, batch), self.inputs.batches[batch])

    def _record_targets(self, products: Sequence[Planned]) -> Targets:
        """Return rows of outputs of the trained network."""
        planned, targets = {product.key: product for product in products}, Targets()
        for batch in range(len(self.inputs)):
            for call in self._watch(self.large, products, batch, takes_inputs=False):
                product, device = planned[call.key], call.outputs.device
                states = product.states
                targets[batch, call.key, call.nth] = (
                    call.extent,
                    call.outputs[:, product.kept.to(device)],
                    None if states is None else call.inputs[:, :, states.to(device)],
                )
        return targets

    def _fit(self, planned: Planned, targets: Targets) -> None:
        expected = planned.rows * planned.calls * len(self.inputs)
        solver = LeastSquares(planned.inputs, expected, planned.constant is not None, self.ridge)
        missing_square = target_square = 0.0
        rows, lost, last = 0, 0, None
        for batch in range(len(self.inputs)):
            for call in self._watch(self.small, [planned], batch, takes_inputs=True):
                key = batch, call.key, call.nth
                extent, wanted, states = targets.pop(key, (None, None, None))
                if wanted is None or (extent, wanted.shape) != (call.extent, call.outputs.shape):
                    continue
                if states is not None:
                    call.read_other(states)
                known = ~wanted.isneginf()  # those that a mask makes -inf do not count
                wanted, call.outputs = (t.where(known, 0.0) for t in (wanted, call.outputs))
                finite = (wanted + call.outputs).isfinite().all(1)
                finite &= call.inputs.isfinite().all(2).all(0)
                if not finite.all():  # as of a sequence whose steps are all masked
                    lost += len(wanted)
                    wanted, call.outputs = wanted[finite], call.outputs[finite]
                    call.inputs = call.inputs[:, finite]
                rows, last = rows + len(wanted), call
                if not len(wanted):
                    continue
                missing = _find_missing(call, wanted, planned.bounds)
                solver.add(call.inputs, call.product.split(missing))
                missing_square += _sum_squares(wanted - call.outputs)
                target_square += _sum_squares(wanted)
                call.inputs = call.inputs.new_empty(0)
        if last is None:
            self.left[planned.key.partition("[")[0]] = "its outputs have other places"
            return
        if (lost and not rows) or not math.isfinite(missing_square + target_square):
            raise NsoptError(
                f"the outputs of {planned.key} are not finite: check the inputs and the weights"
            )
        self.errors[planned.key] = missing_square / max(target_square, 1e-30)
        if self.errors[planned.key] > 1e-12:
            self._apply(planned, last, solver)

    def _apply(self, planned: Planned, call: ProductCall, solver: LeastSquares) -> None:
        """Change the weight, and what adds a constant to its outputs."""
        change, tensors = solver.solve(), tensors_of(self.small)
        with torch.no_grad():
            if call.recipe is None:
                call.product.change(change[:, : planned.inputs])
                constant = change[:, planned.inputs :]
            else:
                free = [tensors[name] for name in planned.free]
                found = fit_parts(call.recipe, call.product, solver, free)
                if found is None:
                    self.left[call.recipe.name] = "computed in a way that nothing changes"
                    del self.errors[planned.key]
                    return
                constant = found
            if planned.constant is None:
                return
            named, bias = tensors[planned.constant], call.product.bias
            constant = constant.flatten().to(named)
            if bias is not None:
                bias.add_(constant)
            elif isinstance(named, nn.Parameter):
                named.add_(constant)
            else:  # the mean that a BatchNorm subtracts
                named.sub_(constant)


def _sum_squares(numbers: Tensor) -> float:
    """Sum squares, which overflow in float16."""
    return float(numbers.float().square().sum())


def _find_missing(call: ProductCall, wanted: Tensor, bounds: Bounds | None) -> Tensor:
    """Return what is missing in the results of a product of the small network, (N, O).

    Beyond bounds any number is as good as the target.
    """
    if bounds is not None:
        low, high = bounds
        below, above = call.outputs.clamp(max=low), call.outputs.clamp(min=high)
        wanted = torch.where(wanted <= low, below, torch.where(wanted >= high, above, wanted))
    missing = wanted - call.outputs
    if call.scale is None:
        return missing
    least = _SMALL_FACTOR * call.scale.square().mean() + torch.finfo(missing.dtype).tiny
    return missing * (call.scale / (call.scale.square() + least))


def describe_left(left: dict[str, str]) -> str:
    """Return the weights that stay as inherited in words."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        path = name.partition(".parametrizations.")[0]
        reasons.setdefault(reason, []).append(
            path if path != name else name.rpartition(".")[0] or name
        )
    return "; ".join(
        f"{', '.join(dict.fromkeys(paths))} ({reason})" for reason, paths in reasons.items()
    )
