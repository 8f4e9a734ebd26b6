"""Quantise a network to 8-bit integers, with onnxruntime's static quantisation.

Scales come from images of the training (minimum and maximum of every activation), and weights have
one scale per channel. Weights use 7 of the 8 bits: on processors without VNNI, sums of products of
8 bits overflow (a network of 99.1 % then had 93.3 %). ReLU stays in floating point: onnxruntime's
integer operators drop it (57.6 %). It writes integers in two forms; which one is faster depends on
the processor, and either may be slower than floating point. So all are timed.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nsopt.data.images import ImageData, ImageSet
from nsopt.latency.measure import pause_garbage_collection
from nsopt.models.onnx import import_for_export

FLOAT = "float"
_FORMS = ("QDQ", "QOperator")
_OPERATIONS = ["Conv", "Gemm", "MatMul"]
_PER_CLASS, _BATCH = 20, 100  # calibration images, and images per timed pass
_WARMUP, _ROUNDS, _PASSES = 2, 5, 6
_PIXEL_RANGE = 255.0

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Int8:
    """A quantised network.

    Attributes:
        form: the faster of onnxruntime's forms: QDQ, which keeps floating-point operations between
            conversions, or QOperator, which has integer operations.
        milliseconds: median per batch of 100 on this processor, of each form and of `float`.
    """

    form: str
    milliseconds: Mapping[str, float]

    @property
    def is_faster(self) -> bool:
        """Whether integers are faster than floating point here."""
        return self.milliseconds[self.form] < self.milliseconds[FLOAT]


def quantise(exported: Path | str, path: Path | str, data: ImageData) -> Int8:
    """Write an exported network with 8-bit integers, in the form that is faster here.

    Args:
        exported: an ONNX file that `nsopt.export` wrote.
        path: of the new file. Its input and output stay float32.
        data: the images of the network's training, a few of which calibrate it.

    Raises:
        NsoptError: if a package is missing.

    Examples:
        >>> nsopt.export(nsopt.load_network("small.pt"), "small.onnx")
        >>> nsopt.quantise("small.onnx", "small-int8.onnx", data).milliseconds
    """
    images = data.train.first_of_each(_PER_CLASS)
    with tempfile.TemporaryDirectory(prefix="nsopt-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        _prepare(Path(exported), prepared)
        files = {FLOAT: Path(exported)}
        for form in _FORMS:
            files[form] = Path(folder) / f"{form}.onnx"
            _quantise(prepared, files[form], form, images)
            _copy_facts(files[FLOAT], files[form])
        milliseconds = _time(files, next(_batches(images)))
        form = min(_FORMS, key=milliseconds.__getitem__)
        Path(path).write_bytes(files[form].read_bytes())
    return Int8(form, milliseconds)


def _prepare(source: Path, target: Path) -> None:
    import_for_export("onnx")  # onnxruntime's quantisation needs it
    quantization = import_for_export("onnxruntime.quantization")
    quantization.quant_pre_process(source, target, skip_symbolic_shape=True)


def _quantise(prepared: Path, target: Path, form: str, images: ImageSet) -> None:
    quantization = import_for_export("onnxruntime.quantization")
    quantization.quantize_static(
        prepared,
        target,
        _Calibration(images),
        quant_format=quantization.QuantFormat[form],
        op_types_to_quantize=_OPERATIONS,
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def _copy_facts(source: Path, target: Path) -> None:
    onnx = import_for_export("onnx")
    facts = onnx.load(source).metadata_props
    model = onnx.load(target)
    onnx.helper.set_model_props(model, {fact.key: fact.value for fact in facts})
    onnx.save(model, target)


class _Calibration:
    """Yields batches of images to onnxruntime, as its CalibrationDataReader does."""

    def __init__(self, images: ImageSet) -> None:
        self._batches = _batches(images)

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _batches(images: ImageSet) -> Iterator[Images]:
    for part in images.parts(_BATCH):
        yield (part.to(torch.float32) / _PIXEL_RANGE).numpy()


def _time(files: Mapping[str, Path], batch: Images) -> dict[str, float]:
    """Return the median milliseconds of each file, timed side by side."""
    runtime = import_for_export("onnxruntime")
    sessions = {
        name: runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in files}
    with pause_garbage_collection():
        for _ in range(_ROUNDS):
            for name, session in sessions.items():
                for _ in range(_WARMUP):
                    _run(session, batch)
                seconds[name] += [_run(session, batch) for _ in range(_PASSES)]
    return {name: 1000 * float(np.median(own)) for name, own in seconds.items()}


def _run(session: Any, batch: Images) -> float:
    began = time.perf_counter()
    session.run(None, {"images": batch})
    return time.perf_counter() - began
