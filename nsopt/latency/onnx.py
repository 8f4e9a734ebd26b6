"""Networks timed in onnxruntime on the CPU, as they are shipped."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from nsopt.models.onnx import Images, export_to_onnx, import_for_export, load_onnx
from nsopt.models.quantisation import write_int8
from nsopt.models.tracing.originals import copy_model
from nsopt.settings import BATCH_SIZE

_EXAMPLES = 2
_CALIBRATING = 8  # random images: the time of integers does not depend on their scales
_TRIES = 3

Run = Callable[[Images], Images]


@dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime with PyTorch's number of threads; networks are exported to ONNX.

    Attributes:
        int8: whether networks are quantised to 8-bit integers, in the form that is faster, instead
            of float32.
        batch_size: images per pass.
    """

    int8: bool = False
    batch_size: int = BATCH_SIZE

    @property
    def name(self) -> str:
        return "onnxruntime-int8" if self.int8 else "onnxruntime"

    @property
    def version(self) -> str:
        return f"{self.name} {import_for_export('onnxruntime').__version__}"

    def device(self, wanted: torch.device) -> torch.device:
        return torch.device("cpu")

    def passes(self, warmup: int, repeats: int, rounds: int) -> tuple[int, int, int]:
        return warmup, repeats, rounds

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], device: torch.device
    ) -> Callable[[Tensor], Callable[[], float]]:
        with tempfile.TemporaryDirectory(prefix="nsopt-") as folder:
            file = Path(folder) / "network.onnx"
            export_to_onnx(copy_model(model).cpu(), torch.zeros(_EXAMPLES, *input_shape), {}, file)
            run = self._load_faster_int8(file, input_shape) if self.int8 else load_onnx(file)

        def feed(images: Tensor) -> Callable[[], float]:
            return partial(time_pass, run, images.contiguous().numpy())

        return feed

    def _load_faster_int8(self, file: Path, input_shape: tuple[int, ...]) -> Run:
        """Quantise an exported network; return the form that is faster for a batch."""
        random = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, *input_shape, generator=random).numpy()
        files = write_int8(file, file.parent, [images[:_CALIBRATING]]).values()
        runs = [load_onnx(each) for each in files]
        return min(runs, key=lambda run: min(time_pass(run, images) for _ in range(_TRIES)))


def time_pass(run: Run, images: Images) -> float:
    """Return the seconds of one pass."""
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start
