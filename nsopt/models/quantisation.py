"""Write exported networks with 8-bit integers, by onnxruntime's static quantisation.

Scales come from a few images (minimum and maximum of every activation), and weights have one scale
per channel. Weights use 7 of the 8 bits: on processors without VNNI, sums of products of 8 bits
overflow (a network of 99.1 % then had 93.3 %). ReLU stays in floating point: onnxruntime's integer
operators drop it (57.6 %). There are two forms of integers: QDQ keeps floating-point operations
between conversions, QOperator has integer operations. Which one is faster depends on the processor.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from nsopt.models.onnx import INPUT, Images, import_for_export

FORMS = ("QDQ", "QOperator")
_OPERATIONS = ["Conv", "Gemm", "MatMul"]


def write_int8(source: Path, folder: Path, batches: Iterable[Images]) -> dict[str, Path]:
    """Write an ONNX file with integers in each form; return the new files by form.

    Args:
        batches: of inputs that calibrate it.
    """
    import_for_export("onnx")  # onnxruntime's quantisation needs it
    quantization = import_for_export("onnxruntime.quantization")
    inputs, files = list(batches), {form: folder / f"{form}.onnx" for form in FORMS}
    with tempfile.TemporaryDirectory(prefix="nsopt-") as place:
        prepared = Path(place) / "prepared.onnx"
        quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        for form, file in files.items():
            quantization.quantize_static(
                prepared,
                file,
                _Calibration(inputs),
                quant_format=quantization.QuantFormat[form],
                op_types_to_quantize=_OPERATIONS,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    return files


class _Calibration:
    """Yields batches to onnxruntime, as its CalibrationDataReader does."""

    def __init__(self, batches: Iterable[Images]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
