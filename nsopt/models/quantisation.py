"""Quantise exported networks to 8-bit integers, with onnxruntime's static quantisation.

Scales come from a few images (minimum and maximum of every activation); weights have one scale per
channel. Weights use 7 of the 8 bits: on processors without VNNI, sums of 8-bit products overflow
(accuracy fell from 99.1 % to 93.3 %). ReLU stays in floating point, because onnxruntime's integer
operators drop it (57.6 %). There are two forms: QDQ keeps floating-point operations between
conversions, QOperator has integer operations. The processor decides which form is faster.
"""

import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from nsopt.models.onnx import Arrays, import_for_export

FORMS = ("QDQ", "QOperator")
_OPERATIONS = ["Conv", "Gemm", "MatMul"]


def write_int8(source: Path, folder: Path, batches: Iterable[Arrays]) -> dict[str, Path]:
    """Quantise an ONNX file in each form; return the new files by form.

    Args:
        source: the ONNX file in float32.
        folder: where to write the new files.
        batches: for the calibration, as `OnnxNetwork.name_inputs` returns them.
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
                SimpleNamespace(get_next=partial(next, iter(inputs), None)),
                quant_format=quantization.QuantFormat[form],
                op_types_to_quantize=_OPERATIONS,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    return files
