"""How far the outputs of an exported file are from those of its network."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError, short_reason
from nsopt.inputs import call_network, count_examples, list_shapes, tensors_in

Predict = Callable[[Any], Any]
_LOGITS_APART = 1e-3  # of the largest output
_MASKED = 1e4  # numbers of a mask are as large


@torch.no_grad()
def compare_runs(exported: Predict, original: nn.Module, batches: Sequence[Any]) -> float:
    """Return the largest difference of outputs, relative to the largest number of the output.

    All outputs count that are floating, not empty, and the same in a second run.

    Args:
        exported: computes what the file computes.
        original: the network, in evaluation mode.

    Raises:
        NsoptError: if the file does not run on a batch, or if a difference is too large.
    """
    runs = []
    for batch in batches:
        actual = tensors_in(run_exported(exported, batch))
        expected = tensors_in(call_network(original, batch))
        if (shapes := list_shapes(actual)) != (wanted := list_shapes(expected)):
            raise NsoptError(
                f"the exported network is wrong: its outputs have the shapes {shapes}, and "
                f"PyTorch's {wanted}; export it in another format="
            )
        runs.append([*zip(actual, expected, strict=True)])
    again = tensors_in(call_network(original, batches[-1]))
    outputs = [*zip(*runs, strict=True)]
    compared = [
        output
        for output, repeated in zip(outputs, again, strict=False)
        if _is_comparable(output[-1][1], repeated)
    ]
    return max(
        check_close([(actual.double(), expected.double()) for actual, expected in output])
        for output in compared or outputs[:1]
    )


def run_exported(exported: Predict, inputs: Any) -> Any:
    """Return what a file computes. Raises NsoptError if it does not run on these inputs."""
    try:
        return exported(inputs)
    except Exception as error:
        examples = f"{count_examples(inputs)} examples ({short_reason(error)})"
        raise NsoptError(
            f"the exported network does not run on {examples}: "
            "export it in another format=, or let its code not ask how many examples there are"
        ) from error


def _is_comparable(output: Tensor, again: Tensor) -> bool:
    """Return whether an output has floating numbers, and the same ones if a network runs again."""
    is_floating = output.is_floating_point() and output.numel() > 0
    return is_floating and torch.equal(output.nan_to_num(), again.nan_to_num())


def check_close(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the largest difference of outputs of a file and of the network.

    It is relative to the largest number, without those of a mask, such as -1e9 or -inf: these are
    compared with themselves. Raises NsoptError if it is too large, or NaN.
    """
    actual, expected = (torch.cat([t.flatten() for t in side]) for side in zip(*pairs, strict=True))
    sizes = expected.abs()[expected.isfinite() & (expected != 0)]
    large = sizes >= _MASKED
    if large.all() or len(sizes[large].unique()) > 1:  # no mask, which repeats one number
        large = torch.zeros_like(large)
    scale = sizes[~large].max() if len(sizes) else 1.0
    apart = (actual - expected).abs() / expected.abs().clamp(min=float(scale))
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    difference = float(apart.where(~same, 0.0).max())
    if not difference <= _LOGITS_APART:
        raise NsoptError(
            f"the exported network is wrong: its outputs differ from PyTorch's by "
            f"{difference:.1e}; export it in another format="
        )
    return difference
