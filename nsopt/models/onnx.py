"""Export networks to ONNX, and run the files."""

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsopt.errors import NsoptError

INPUT = "images"  # the name of the input
Images = NDArray[np.float32]


def export_to_onnx(module: nn.Module, examples: Tensor, facts: dict[str, Any], path: Path) -> None:
    """Write a network with one input as an ONNX file with a variable batch size.

    Args:
        module: the network.
        examples: a batch of inputs.
        facts: metadata of the file, JSON-safe.
        path: the new file.
    """
    for package in ("onnx", "onnxscript"):
        import_for_export(package)
    with quiet_exporters():
        program = torch.onnx.export(
            module.eval(),
            (examples,),
            dynamo=True,
            input_names=[INPUT],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({k: json.dumps(v) for k, v in facts.items()})
    program.save(path, external_data=False)


def load_onnx(path: Path) -> Callable[[Images], Images]:
    """Return a function that runs the file in onnxruntime, on the CPU with PyTorch's threads."""
    runtime = import_for_export("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> Images:
        outputs: Images = session.run(None, {INPUT: images})[0]
        return outputs

    return run


def import_for_export(package: str) -> Any:
    """Import a package of the extra `export`. Raises NsoptError if it is missing."""
    try:
        return import_module(package)
    except ImportError:
        raise NsoptError(f"{package} is not installed: pip install 'nsopt[export]'") from None


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence PyTorch's exporters, which print progress and warn about their own code."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
