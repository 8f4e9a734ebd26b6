"""Export networks to ONNX."""

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError


def export_to_onnx(module: nn.Module, examples: Tensor, facts: dict[str, Any], path: Path) -> None:
    """Write any network with one input as ONNX; the batch size stays free."""
    for package in ("onnx", "onnxscript"):
        import_for_export(package)
    with quiet_exporters():
        program = torch.onnx.export(
            module.eval(),
            (examples,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({k: json.dumps(v) for k, v in facts.items()})
    program.save(path, external_data=False)


def import_for_export(package: str) -> Any:
    """Import a package of the extra `export`. Raises NsoptError if it is missing."""
    try:
        return import_module(package)
    except ImportError:
        raise NsoptError(f"{package} is not installed: pip install 'nsopt[export]'") from None


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence PyTorch's exporters, which print progress and warn of their own use of PyTorch."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
