"""Export a stored network to a file that other tools run.

Exported networks take images such as `torchvision.transforms.ToTensor` makes: float32 from 0 to 1,
(N, C, H, W) for any N. The normalisation is part of the network. The output is logits (N, K).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.arguments import checked
from nsopt.deployment.kept import KeptNetwork, load_network
from nsopt.deployment.trained import explain_exported
from nsopt.errors import unknown_name
from nsopt.files import written_beside
from nsopt.models.architecture import Architecture
from nsopt.models.onnx import (
    OnnxNetwork,
    export_to_onnx,
    make_batch_variable,
    quiet_exporters,
    split_arguments,
)

Predict = Callable[[Tensor], Tensor]
_FACTS = "nsopt.json"
_EXAMPLES = 2


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


@checked
def export(network: KeptNetwork, path: Path | str, format: str = "onnx") -> None:  # noqa: A002
    """Write a network for other tools.

    Args:
        network: from `nsopt.load_network`, or the `network` of a compression's result.
        path: of the file. A link there is replaced, not followed.
        format: `onnx`; `pt2`, for `torch.export.load`; or `state_dict`, for `nsopt.load_network`.
            All include the network's facts (`KeptNetwork.facts`).

    Raises:
        NsoptError: for an unknown format, or if a package is missing that the format needs.

    Examples:
        >>> nsopt.export(nsopt.load_network("small.pt"), "small.onnx")
    """
    if format not in _FORMATS:
        raise unknown_name("format", format, _FORMATS)
    write, _ = _FORMATS[format]
    with written_beside(Path(path)) as unfinished:
        write(network, unfinished)


@checked
def load_exported(
    path: Path | str,
    format: str,  # noqa: A002
    arch: str | Architecture | None = None,
) -> Predict:
    """Return an exported file as a function on the CPU.

    It maps images from 0 to 1, (N, C, H, W), to logits (N, K). Use it only for files that you
    trust: onnxruntime and torch.export do not check them.

    Args:
        path: of the file.
        format: see `export`.
        arch: see `load_network`.

    Raises:
        NsoptError: for an unknown format, a missing or foreign file, or if a package is missing
            that the format needs.

    Examples:
        >>> predict = nsopt.load_exported("small.onnx", "onnx")
        >>> predict(data.test.images / 255).argmax(1)
    """
    if format not in _FORMATS:
        raise unknown_name("format", format, _FORMATS)
    _, read = _FORMATS[format]
    with explain_exported(Path(path)):
        return read(Path(path), arch)


def _write_onnx(network: KeptNetwork, path: Path) -> None:
    module, images = WithNormalisation(network), _sample(network)
    export_to_onnx(module, images, network.facts, path, outputs=["logits"])


def _read_onnx(path: Path, arch: str | Architecture | None) -> Predict:
    run = OnnxNetwork(path)
    return lambda images: torch.from_numpy(run(run.name_inputs(images)))


def _write_pt2(network: KeptNetwork, path: Path) -> None:
    export_to_pt2(WithNormalisation(network), _sample(network), network.facts, path)


def export_to_pt2(module: nn.Module, inputs: Any, facts: Mapping[str, Any], path: Path) -> None:
    """Write a network for `torch.export.load`, with a variable batch size; see `export_to_onnx`."""
    args, keywords = split_arguments(inputs)
    with quiet_exporters():
        program = torch.export.export(
            module.eval(), args, keywords, dynamic_shapes=make_batch_variable(inputs)
        )
        torch.export.save(program, path, extra_files={_FACTS: json.dumps(facts)})


def _read_pt2(path: Path, arch: str | Architecture | None) -> Predict:
    with quiet_exporters():
        module: Predict = torch.export.load(path).module()
    return module


def _read_state(path: Path, arch: str | Architecture | None) -> Predict:
    return WithNormalisation(load_network(path, arch)).eval()


_Write = Callable[[KeptNetwork, Path], None]
_Read = Callable[[Path, str | Architecture | None], Predict]
_FORMATS: dict[str, tuple[_Write, _Read]] = {
    "onnx": (_write_onnx, _read_onnx),
    "pt2": (_write_pt2, _read_pt2),
    "state_dict": (KeptNetwork.save, _read_state),
}


def _sample(network: KeptNetwork) -> Tensor:
    return torch.rand(_EXAMPLES, *network.input_shape)
