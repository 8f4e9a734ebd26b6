"""Quantise an exported network to 8-bit integers, in the form that is faster here.

Either form may be slower than floating point, so all are timed.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsopt.arguments import checked
from nsopt.compute.device import resolve_compute, sharing
from nsopt.data.images import ImageData
from nsopt.deployment.trained import explain_exported
from nsopt.errors import NsoptError, short_reason
from nsopt.files import written_beside
from nsopt.latency.measure import pause_garbage_collection
from nsopt.latency.runtime import time_pass
from nsopt.models.inputs import count_examples, list_shapes, resize_batch
from nsopt.models.onnx import Arrays, OnnxNetwork, import_for_export
from nsopt.models.quantisation import write_int8
from nsopt.settings import BATCH_SIZE
from nsopt.tasks.supervise import check_task
from nsopt.tasks.task import Task

FLOAT = "float"
_PER_CLASS = 20  # calibration images
_WARMUP, _ROUNDS, _PASSES = 2, 5, 6


@dataclass(frozen=True)
class Int8:
    """A quantised network.

    Attributes:
        form: the faster of onnxruntime's forms: QDQ, which keeps floating-point operations between
            conversions, or QOperator, which has integer operations.
        milliseconds: median per batch on this processor, of each form and of `float`.
    """

    form: str
    milliseconds: Mapping[str, float]

    @property
    def is_faster(self) -> bool:
        """Whether integers are faster than floating point here."""
        return self.milliseconds[self.form] < self.milliseconds[FLOAT]


@checked
def quantise(
    exported: Path | str, path: Path | str, data: ImageData | Task, batch_size: int | None = None
) -> Int8:
    """Write an exported network with 8-bit integers, in the form that is faster here.

    Args:
        exported: an ONNX file that `nsopt.export` wrote.
        path: of the new file, which replaces a link. Its inputs and outputs keep their types.
        data: the images of the network's training, or its task; a few of them calibrate the file.
        batch_size: examples per timed batch; by default 100 images, or those of `task.inputs`.

    Returns:
        The faster form, and the milliseconds of all forms.

    Raises:
        NsoptError: if a package is missing, for a missing or foreign file, or for other images or
            inputs than those of the network.

    Examples:
        >>> nsopt.export(nsopt.load_network("small.pt"), "small.onnx")
        >>> nsopt.quantise("small.onnx", "small-int8.onnx", data).milliseconds
    """
    check_task(data)
    batches = _list_inputs(data)
    size = batch_size or (BATCH_SIZE if isinstance(data, ImageData) else count_examples(batches[0]))
    with explain_exported(Path(exported)):
        network = OnnxNetwork(Path(exported))
    try:
        network(network.name_inputs(batches[0]))
    except Exception as error:  # onnxruntime has classes of its own
        reason = short_reason(error)
        raise NsoptError(
            f"{exported} does not run on the inputs of {data.name}: {reason}"
        ) from None
    with tempfile.TemporaryDirectory(prefix="nsopt-") as folder:
        integers = write_int8(Path(exported), Path(folder), map(network.name_inputs, batches))
        runs = {FLOAT: network} | {form: OnnxNetwork(file) for form, file in integers.items()}
        milliseconds = _time(runs, network.name_inputs(resize_batch(batches[0], size)))
        form = min(integers, key=milliseconds.__getitem__)
        _copy_facts(Path(exported), integers[form])
        with written_beside(Path(path)) as unfinished:
            unfinished.write_bytes(integers[form].read_bytes())
    return Int8(form, milliseconds)


def _list_inputs(data: ImageData | Task) -> list[Any]:
    """Return a few batches of images, or of a task's inputs in the shapes of `task.inputs`."""
    if isinstance(data, ImageData):
        return list(data.train.first_of_each(_PER_CLASS).scaled_parts(BATCH_SIZE))
    known = _list_sizes(data.inputs)
    return [inputs for inputs in data.first_inputs if _list_sizes(inputs) == known] or [data.inputs]


def _list_sizes(inputs: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all tensors of a batch, without the number of examples."""
    return [shape[1:] for shape in list_shapes(inputs)]


def _copy_facts(source: Path, target: Path) -> None:
    onnx = import_for_export("onnx")
    facts = onnx.load(source).metadata_props
    model = onnx.load(target)
    onnx.helper.set_model_props(model, {fact.key: fact.value for fact in facts})
    onnx.save(model, target)


def _time(runs: Mapping[str, OnnxNetwork], batch: Arrays) -> dict[str, float]:
    """Return the median milliseconds of each file, timed side by side while other nsopt processes
    of this machine wait."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    processor = sharing(resolve_compute("cpu", "fp32"))
    with processor as shared, shared.exclusive(), pause_garbage_collection():
        for _ in range(_ROUNDS):
            for name, run in runs.items():
                for _ in range(_WARMUP):
                    time_pass(run, batch)
                seconds[name] += [time_pass(run, batch) for _ in range(_PASSES)]
    return {name: 1000 * float(np.median(passes)) for name, passes in seconds.items()}
