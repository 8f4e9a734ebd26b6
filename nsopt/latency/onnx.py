"""Networks timed in onnxruntime on the CPU, as they are shipped."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nsopt.models.onnx import export_to_onnx, import_for_export
from nsopt.models.tracing.originals import copy_model

_EXAMPLES = 2


@dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime with PyTorch's number of threads; networks are exported to ONNX in float32."""

    name: str = "onnxruntime"

    @property
    def version(self) -> str:
        return f"{self.name} {import_for_export(self.name).__version__}"

    def device(self, wanted: torch.device) -> torch.device:
        return torch.device("cpu")

    def passes(self, warmup: int, repeats: int, rounds: int) -> tuple[int, int, int]:
        return warmup, repeats, rounds

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], device: torch.device
    ) -> Callable[[Tensor], Callable[[], float]]:
        runtime = import_for_export(self.name)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        with tempfile.TemporaryDirectory(prefix="nsopt-") as folder:
            file = Path(folder) / "network.onnx"
            export_to_onnx(copy_model(model).cpu(), torch.zeros(_EXAMPLES, *input_shape), {}, file)
            session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        (name,) = (value.name for value in session.get_inputs())

        def feed(images: Tensor) -> Callable[[], float]:
            inputs = {name: images.contiguous().numpy()}

            def run() -> float:
                start = time.perf_counter()
                session.run(None, inputs)
                return time.perf_counter() - start

            return run

        return feed
