"""Fit a smaller network to a trained one, layer after layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.compute.checkpoint import Checkpoint, weights_checksum
from nsopt.compute.random_state import use_seed
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.originals import copy_model
from nsopt.models.tracing.run import tensors_of
from nsopt.progress import Progress, Silent
from nsopt.pruning.fitting.inputs import Inputs
from nsopt.pruning.fitting.kept import cut_network
from nsopt.pruning.fitting.least_squares import LeastSquares
from nsopt.pruning.fitting.plan import Plan, Planned, make_plan
from nsopt.pruning.fitting.products import Product
from nsopt.pruning.fitting.watch import Seen, Watch

RIDGE, ROWS = 0.03, 32768
_MOST_TARGETS = 2**28  # numbers of the trained network in memory: 1 GB in float32
_SMALL_FACTOR = (
    1e-4  # the square of a factor of outputs, relative to the mean square: no less counts
)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A network after the fit.

    Attributes:
        model: the network, in evaluation mode.
        errors: by weight, the error of its outputs before it was fitted: the mean square of what
            was missing, relative to that of the outputs of the trained network.
        left: by weight, why it stays as inherited.
    """

    model: nn.Module
    errors: dict[str, float]
    left: dict[str, str]


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
        arch: the architecture of `model`.
        model: a trained network of base widths; it does not change.
        kept: per group, ascending indices of the units to keep.
        inputs: what both networks run on.
        ridge: how much a change of weights costs, relative to the squares of their inputs.
        rows: how many places of all inputs each layer is fitted to.
        seed: of the choice of these places.
        progress: receives a step for each layer.
        checkpoint: a file from which an interrupted fit continues.

    Raises:
        NsoptError: if the network does not run on the inputs, or its outputs are not finite.
    """
    large = copy_model(model).eval()
    small, indices = cut_network(arch, large, kept)
    small.eval()
    plan = make_plan(large, small, indices, inputs, rows)
    return _Fit(large, small, plan, inputs, ridge, rows, seed).run(
        progress or Silent(),
        Checkpoint(
            checkpoint,
            {
                "weights": weights_checksum(model),
                "start": weights_checksum(small),
                "inputs": inputs.checksum(),
                "ridge": ridge,
                "rows": rows,
                "seed": seed,
            },
        ),
    )


class _Fit:
    def __init__(
        self,
        large: nn.Module,
        small: nn.Module,
        plan: Plan,
        inputs: Inputs,
        ridge: float,
        rows: int,
        seed: int,
    ) -> None:
        self._large, self._small, self._plan, self._inputs = large, small, plan, inputs
        self._ridge, self._rows, self._seed = ridge, rows, seed
        self._errors: dict[str, float] = {}

    def run(self, progress: Progress, checkpoint: Checkpoint) -> Fitted:
        steps = self._plan.steps()
        saved = checkpoint.load(next(self._small.parameters()).device)
        done = 0
        if saved is not None:
            done, self._errors = saved["done"], saved["errors"]
            self._small.load_state_dict(saved["model"])
        progress.start("layers fitted", len(steps))
        for _ in range(done):
            progress.advance()
        for chunk in self._divide(steps[done:]):
            targets = self._record_targets([product for step in chunk for product in step])
            for step in chunk:
                self._fit_step(step, targets)
                done += 1
                progress.advance(step[-1].key)
                model = self._small.state_dict()
                state = {"done": done, "errors": self._errors, "model": model}
                checkpoint.save_when_due(partial(dict[str, Any], state))
        checkpoint.remove()
        if self._plan.left:
            progress.message(f"left as inherited: {describe_left(self._plan.left)}")
        return Fitted(self._small, self._errors, self._plan.left)

    def _divide(self, steps: list[list[Planned]]) -> Iterator[list[list[Planned]]]:
        """Yield steps whose targets together fit in memory."""
        chunk: list[list[Planned]] = []
        used = 0
        for step in steps:
            need = sum(
                p.rows * p.calls * len(self._inputs) * len(p.kept) * (1 + p.completes) for p in step
            )
            if chunk and used + need > _MOST_TARGETS:
                yield chunk
                chunk, used = [], 0
            chunk.append(step)
            used += need
        if chunk:
            yield chunk

    def _watch(
        self, model: nn.Module, products: Sequence[Planned], batch: int, takes_inputs: bool
    ) -> list[Seen]:
        planned = {product.key: product for product in products}

        def choose(key: str, nth: int, product: Product, result: Tensor) -> Tensor:
            return planned[key].choose(nth, batch, self._seed, product, result)

        watch = Watch(
            model,
            choose,
            {product.key: product.calls for product in products},
            {product.key for product in products if product.completes},
            takes_inputs,
        )
        with use_seed(batch, next(model.parameters()).device):  # for networks that draw noise
            return watch.run(self._inputs.call(model, batch))

    def _record_targets(self, products: Sequence[Planned]) -> dict[tuple[int, str, int], Any]:
        """Return rows of outputs of the trained network, and of what is added to them."""
        kept = {product.key: product.kept for product in products}
        found = {}
        for batch in range(len(self._inputs)):
            for seen in self._watch(self._large, products, batch, takes_inputs=False):
                own = kept[seen.key].to(seen.outputs.device)
                beside = None if seen.beside is None else seen.beside[:, own]
                found[batch, seen.key, seen.nth] = seen.extent, seen.outputs[:, own], beside
        return found

    def _fit_step(self, step: Sequence[Planned], targets: dict[tuple[int, str, int], Any]) -> None:
        planned = {product.key: product for product in step}
        solvers: dict[str, LeastSquares] = {}
        last: dict[str, Seen] = {}
        sums: dict[str, list[float]] = {}
        for batch in range(len(self._inputs)):
            for seen in self._watch(self._small, step, batch, takes_inputs=True):
                extent, *wanted = targets.pop((batch, seen.key, seen.nth), (None, None))
                if extent != seen.extent or wanted[0].shape != seen.outputs.shape:
                    continue
                own = planned[seen.key]
                if seen.key not in solvers:
                    expected = own.rows * own.calls * len(self._inputs)
                    has_constant = own.constant is not None
                    solvers[seen.key] = LeastSquares(
                        own.inputs, expected, has_constant, self._ridge
                    )
                missing = _find_missing(seen, *wanted)
                assert seen.inputs is not None
                solvers[seen.key].add(seen.inputs, seen.product.split(missing))
                squares = [float(each.square().sum()) for each in (missing, wanted[0])]
                sums[seen.key] = [
                    a + b for a, b in zip(sums.get(seen.key, [0.0, 0.0]), squares, strict=True)
                ]
                seen.inputs = None
                last[seen.key] = seen
        for key in planned.keys() - solvers.keys():
            self._plan.left[key.partition("[")[0]] = "its outputs have other places"
        for key, solver in solvers.items():
            missing_square, target_square = sums[key]
            self._errors[key] = missing_square / max(target_square, 1e-30)
            if not torch.isfinite(torch.tensor(sums[key])).all():
                raise NsoptError(
                    f"the outputs of {key} are not finite: check the inputs and the weights"
                )
            if self._errors[key] > 1e-12:
                self._apply(planned[key], last[key], solver.solve())

    def _apply(self, own: Planned, seen: Seen, change: Tensor) -> None:
        """Add a change to the weight, and to what adds a constant to its outputs."""
        with torch.no_grad():
            seen.product.change(change[:, : own.inputs])
            if own.constant is None:
                return
            named, bias = tensors_of(self._small)[own.constant], seen.product.bias
            constant = change[:, own.inputs].flatten().to(named)
            if bias is not None:
                bias.add_(constant)
            elif isinstance(named, nn.Parameter):
                named.add_(constant)
            else:  # the mean that a BatchNorm subtracts
                named.sub_(constant)


def _find_missing(seen: Seen, outputs: Tensor, beside: Tensor | None) -> Tensor:
    """Return what is missing in outputs of the small network, (N, O).

    If another tensor is added to the outputs, its error is missing in the outputs, too.
    """
    missing = outputs - seen.outputs
    if beside is None or seen.beside is None:
        return missing
    error = beside - seen.beside
    if seen.scale is None:
        return missing + error
    least = _SMALL_FACTOR * seen.scale.square().mean()
    return missing + error * (seen.scale / (seen.scale.square() + least))


def describe_left(left: dict[str, str]) -> str:
    """Return the weights that stay as inherited in words."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        reasons.setdefault(reason, []).append(name.rpartition(".")[0] or name)
    return "; ".join(
        f"{', '.join(dict.fromkeys(paths))} ({reason})" for reason, paths in reasons.items()
    )
