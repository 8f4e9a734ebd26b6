"""Export a stored network to a file that other tools run, and check that it computes the same.

Exported classifiers take images such as `torchvision.transforms.ToTensor` makes: float32 from 0 to
1, (N, C, H, W) for any N. The normalisation is part of the network. The output is logits (N, K).
Networks of other tasks take what their module takes, with any number of examples, and with other
sizes that vary in the batches of the task, such as lengths.
"""

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.data.images import PIXEL_RANGE, ImageSet
from nsopt.deployment.kept import KeptNetwork, load_network
from nsopt.errors import NsoptError, short_reason, unknown_name
from nsopt.files import written_beside
from nsopt.inputs import (
    call_network,
    count_examples,
    list_shapes,
    lists_examples,
    resize_batch,
    tensors_in,
)
from nsopt.isolation import public
from nsopt.models.architecture import Architecture
from nsopt.models.onnx import (
    OnnxNetwork,
    explain_export,
    export_program,
    export_to_onnx,
    quiet_exporters,
    try_strictly,
)
from nsopt.tasks.classification import count_right
from nsopt.tasks.task import Task
from nsopt.tracing.states import borrow

_FACTS = "nsopt.json"
_EXAMPLES = 2
_SUFFIXES = {".onnx": "onnx", ".pt2": "pt2", ".pt": "state_dict", ".pth": "state_dict"}
Predict = Callable[[Any], Any]
_LOGITS_APART = 1e-3  # of the largest output
_MASKED = 1e4  # numbers of a mask are as large
_BATCH = 100
_POINTS_APART = 1.0  # trainings may have evaluated in bfloat16,
_IMAGES_APART = 2  # in which a few images turn


class WithNormalisation(nn.Module):
    """A network that normalises its input."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: KeptNetwork) -> None:
        super().__init__()
        self.network = network.model
        self.register_buffer("mean", torch.tensor(network.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(network.std)[:, None, None])

    def forward(self, images: Tensor) -> Any:
        return self.network((images - self.mean) / self.std)


@public
def export(
    network: KeptNetwork,
    path: Path | str,
    format: str | None = None,  # noqa: A002
    inputs: Any = None,
) -> None:
    """Write a network for other tools.

    Args:
        network: from `nsopt.load_network`, or the `network` of a compression's result.
        path: of the file. A link there is replaced, not followed.
        format: `onnx`; `pt2`, for `torch.export.load`; or `state_dict`, for `nsopt.load_network`.
            All include the network's facts (`KeptNetwork.facts`). By default by the suffix .onnx,
            .pt2, .pt or .pth of the file; `onnx` for a file without a suffix.
        inputs: the task, or a batch of at least two examples; needed for onnx and pt2 unless the
            network takes images. Sizes that differ in the first batches of a task, such as lengths,
            may differ in the file's inputs, too; if PyTorch cannot export that, nsopt warns.

    Raises:
        NsoptError: for an unknown format, suffix or folder, for a suffix of another format,
            if a package is missing that the format needs, if PyTorch cannot export the network, or
            if onnxruntime cannot run it.

    Examples:
        >>> nsopt.export(nsopt.load_network("small.pt"), "small.onnx")
    """
    form = choose_format(Path(path), format)
    if Path(path).is_dir():
        raise NsoptError(f"{path} is a folder: name a file")
    with written_beside(Path(path)) as unfinished:
        if form in _WRITERS:
            batches = _choose_batches(network, inputs)
            _write(form, make_whole(network), batches, network.facts, unfinished)
        else:
            network.save(unfinished)


def choose_format(path: Path, requested: str | None) -> str:
    """Return the format that is requested for, else that of the suffix; see `export`."""
    named = _SUFFIXES.get(path.suffix.lower())
    if not (requested or named) and path.suffix[1:2].isalpha():
        known = ", ".join(_SUFFIXES)
        raise NsoptError(f"no format has the suffix {path.suffix}: give format=, or one of {known}")
    form = requested or named or "onnx"
    if form not in _READERS:
        raise unknown_name("format", form, _READERS)
    if named not in (None, form):
        raise NsoptError(f"{path} would be a file of {form}: give it another suffix or format")
    return form


@public
def load_exported(
    path: Path | str,
    format: str | None = None,  # noqa: A002
    arch: str | Architecture | None = None,
) -> Predict:
    """Return an exported file as a function on the CPU.

    It maps images from 0 to 1, (N, C, H, W), to logits (N, K); a network of another task maps its
    inputs to its outputs, in ONNX to a tensor, or to a tuple of several. Use it only for files that
    you trust: onnxruntime and torch.export do not check them.

    Args:
        path: of the file.
        format: see `export`.
        arch: see `load_network`.

    Raises:
        NsoptError: for an unknown format, a missing or foreign file, or if a package is missing
            that the format needs.

    Examples:
        >>> predict = nsopt.load_exported("small.onnx")
        >>> predict(data.test.images / 255).argmax(1)
    """
    form = choose_format(Path(path), None) if format is None else format
    if form not in _READERS:
        raise unknown_name("format", form, _READERS)
    if not Path(path).is_file():
        raise NsoptError(f"there is no file {path}: write one with nsopt.export")
    try:
        return _READERS[form](Path(path), arch)
    except NsoptError:
        raise
    except Exception as error:  # onnxruntime and torch raise anything for a foreign file
        raise NsoptError(
            f"nsopt.export did not write {path} ({short_reason(error)}): write it again"
        ) from None


def make_whole(network: KeptNetwork) -> nn.Module:
    """Return the module of a network as it is exported: for images it normalises them."""
    return WithNormalisation(network) if network.input_shape else network.model


def _choose_batches(network: KeptNetwork, inputs: Any) -> list[Any]:
    """Return the batches with which a network is exported: of a task one for each shape of inputs.

    Raises NsoptError if it needs `inputs`.
    """
    if network.input_shape:
        return [torch.rand(_EXAMPLES, *network.input_shape)]
    if inputs is None:
        raise NsoptError(f"{network.arch} takes no images: give the task as inputs=task")
    if not isinstance(inputs, Task):
        return [inputs]
    by_shape: dict[str, Any] = {}
    for batch in (inputs.inputs, *inputs.first_inputs):
        by_shape.setdefault(str(list_shapes(batch)), batch)
    return list(by_shape.values())


def _write(
    form: str, module: nn.Module, batches: Sequence[Any], facts: Mapping[str, Any], path: Path
) -> None:
    """Write a file for all sizes of the batches, or warn that it takes those of the first alone."""
    first, *others = batches
    with borrow(module) as copied:
        try:
            _WRITERS[form](copied, batches, facts, path)
            for batch in others:
                compare_runs(_READERS[form](path, None), copied, [batch])
            return
        except NsoptError as error:
            if not others:
                raise
            reason = error
        _WRITERS[form](copied, [first], facts, path)
    warnings.warn(
        f"the {form} file takes inputs of the shapes {list_shapes(first)} alone, but for the "
        f"number of examples, although those of other batches differ: {reason}",
        stacklevel=4,
    )


def _write_onnx(
    module: nn.Module, batches: Sequence[Any], facts: Mapping[str, Any], path: Path
) -> None:
    outputs = ["logits"] if isinstance(module, WithNormalisation) else []
    export_to_onnx(module, batches, facts, path, outputs)
    with explain_export("onnx"):
        OnnxNetwork(path)  # raises an error if onnxruntime has no kernel for it, as for bfloat16


def _write_pt2(
    module: nn.Module, batches: Sequence[Any], facts: Mapping[str, Any], path: Path
) -> None:
    """Write a network for `torch.export.load`; see `export_to_onnx`."""

    def write(strict: bool) -> bytes:
        with quiet_exporters(), explain_export("pt2"):
            program = export_program(module, batches, strict)
            content = io.BytesIO()  # for a path, PyTorch warns unless it ends in .pt2
            torch.export.save(program, content, extra_files={_FACTS: json.dumps(facts)})
        return content.getvalue()

    path.write_bytes(try_strictly(write))


def _read_onnx(path: Path, arch: str | Architecture | None) -> Predict:
    run = OnnxNetwork(path)

    def predict(inputs: Any) -> Any:
        outputs = tuple(torch.from_numpy(out) for out in run.compute(run.name_inputs(inputs)))
        return outputs if len(outputs) > 1 else outputs[0]

    return predict


def _read_pt2(path: Path, arch: str | Architecture | None) -> Predict:
    with quiet_exporters():
        module = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return partial(call_network, module)


def _read_state(path: Path, arch: str | Architecture | None) -> Predict:
    return partial(call_network, make_whole(load_network(path, arch)))


_WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2}
_READERS = {"onnx": _read_onnx, "pt2": _read_pt2, "state_dict": _read_state}


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


@dataclass(frozen=True)
class ExportCheck:
    """The check of an exported file.

    Attributes:
        exported, stored: test accuracy in percent with the file, and in the study.
        difference: of the logits from PyTorch's, relative to the largest logit.
    """

    exported: float
    stored: float
    difference: float


def check_export(network: KeptNetwork, path: Path, form: str, test: ImageSet) -> ExportCheck:
    """Load an exported file and compare it with `network` on test images, uint8.

    Raises NsoptError if its logits differ, or its accuracy is not the stored one.
    """
    check = compare_export(network, path, form, test)
    most = _POINTS_APART + 100 * _IMAGES_APART / len(test)
    if abs(check.exported - check.stored) > most:
        raise NsoptError(
            f"the exported network reaches {check.exported:.2f} % on the test images, but "
            f"{check.stored:.2f} % in the study: give the images of the study as data="
        )
    return check


@torch.no_grad()
def compare_export(network: KeptNetwork, path: Path, form: str, test: ImageSet) -> ExportCheck:
    """Return what `check_export` does, whatever the accuracy; raise NsoptError for other logits."""
    exported = load_exported(path, form, network.arch)
    right, pairs = 0, list[tuple[Tensor, Tensor]]()
    with borrow(make_whole(network)) as original:
        for part, labels in zip(test.parts(_BATCH), test.labels.split(_BATCH), strict=True):
            pixels = part.to(torch.float32) / PIXEL_RANGE
            pairs.append((run_exported(exported, pixels), original(pixels)))
            right += int(count_right(pairs[-1][0], labels))
    difference = check_close(pairs)
    return ExportCheck(100 * right / len(test), network.test_accuracy, difference)


def compare_outputs(
    network: KeptNetwork, path: Path, form: str, arch: Architecture, inputs: Any
) -> float:
    """Return how far the outputs of an exported file are from the network's; see `compare_runs`.

    Args:
        inputs: a batch. It is compared, and one example of it, and more, unless a list has an item
            for each.
    """
    count = count_examples(inputs)
    sizes = (count,) if lists_examples(inputs) else (1, count + 3, count)
    batches = [resize_batch(inputs, size) for size in sizes]
    with borrow(make_whole(network)) as original:
        return compare_runs(load_exported(path, form, arch), original, batches)
