"""Smaller networks without training: the public function."""

from typing import Any

from torch import nn

from nsopt.errors import NsoptError
from nsopt.inputs import count_examples, resize_batch
from nsopt.isolation import public
from nsopt.models.architecture import Architecture
from nsopt.models.checks import check_finite, check_has_weights
from nsopt.models.trace import trace
from nsopt.progress import Progress, Silent
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.inputs import Inputs, count_arguments
from nsopt.pruning.fitting.rank import rank_by_fit
from nsopt.scaling.cost import Widths
from nsopt.tracing.originals import unwrapped
from nsopt.tracing.weights import adopt_weights


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
