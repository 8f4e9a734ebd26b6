"""Export networks to ONNX, and run the files."""

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from nsopt.errors import NsoptError, short_reason
from nsopt.inputs import count_examples, lists_examples, split_arguments, tensors_in
from nsopt.tracing.run import trust_distributions

T = TypeVar("T")
_CONSTANT = "its code makes a size a constant, as a loop over examples or steps does"
_WHY = {
    "specialized it to be a constant": _CONSTANT,
    "data-dependent expression": "its code decides by the values of a tensor: write torch.where",
    "not a known type|'(str|int|float|bool)' object has no attribute 'name'": (
        "it returns something else than tensors, or tuples, lists and dictionaries of them"
    ),
}
_LONGEST = 200
Array = NDArray[Any]
Arrays = Mapping[str, Array]  # by the names of a file's inputs


def export_to_onnx(
    module: nn.Module,
    batches: Sequence[Any],
    facts: Mapping[str, Any],
    path: Path,
    outputs: Sequence[str] = (),
) -> None:
    """Write a network as an ONNX file with a variable batch size.

    The file's inputs have the names of the parameters of `module.forward`.

    Args:
        batches: first a batch of at least two examples: a tensor, a tuple of arguments, or a
            dictionary of keyword arguments. Everything in it that is no tensor becomes a constant.
            Sizes that differ in others of the same kind are variable, too.
        facts: metadata of the file, JSON-safe.
        path: the new file.
        outputs: names of the outputs; by default the keys of a dictionary, or else PyTorch's names.

    Raises:
        NsoptError: if a package is missing, or if PyTorch cannot export the network.
    """
    for package in ("onnx", "onnxscript"):
        import_for_export(package)

    def convert(strict: bool) -> torch.onnx.ONNXProgram:
        args, keywords = split_arguments(batches[0])
        with quiet_exporters(), explain_export("onnx"):
            program = torch.onnx.export(
                export_program(module, batches, strict) if strict else module.eval(),
                # A last dictionary would be taken for keyword arguments.
                (*args, {}) if args and isinstance(args[-1], dict) else args,
                kwargs=keywords,
                dynamo=True,
                dynamic_shapes=make_sizes_variable(batches),
                output_names=list(outputs) or None,
                verbose=False,
            )
        assert program is not None
        if not lists_examples(batches[0]):
            _check_batch(program.model.graph.inputs, count_examples(batches[0]))
        return program

    program = try_strictly(convert)
    with explain_export("onnx"):  # a file of more than 2 GB, too
        if not outputs:
            _name_outputs(program)
        program.model.metadata_props.update({k: json.dumps(v) for k, v in facts.items()})
        program.save(path, external_data=False)


def _name_outputs(program: torch.onnx.ONNXProgram) -> None:
    """Name the outputs by the keys of the dictionary that a network returns, if it does.

    They keep PyTorch's names if a key is the name of another value in the graph.
    """
    graph, exported = program.model.graph, program.exported_program
    spec = exported.call_spec.out_spec if exported is not None else None
    result = None if spec is None else tree_unflatten(range(spec.num_leaves), spec)
    if not isinstance(result, Mapping):
        return
    names = [
        str(key) if isinstance(value, int) else f"{key}_{i}"
        for key, value in result.items()
        for i, _ in enumerate(tree_leaves(value))
    ]
    before = {value.name for value in graph.outputs}
    others = {value.name for node in graph.all_nodes() for value in node.outputs} - before
    others |= {*graph.initializers, *(value.name for value in graph.inputs)}
    count = len(graph.outputs)
    if len(names) == len({*names} - others) == len(before - others) == count:
        for value, name in zip(graph.outputs, names, strict=True):
            value.name = name


def try_strictly(export: Callable[[bool], T]) -> T:
    """Return the result of `export(strict)`: of PyTorch's faster way, or else of its strict one.

    The strict one reads Python's code, and so keeps `len(x)` variable. Raises the first NsoptError.
    """
    try:
        return export(False)
    except NsoptError:
        with contextlib.suppress(NsoptError):
            return export(True)
        raise


def export_program(
    module: nn.Module, batches: Sequence[Any], strict: bool
) -> torch.export.ExportedProgram:
    """Return a network as PyTorch's program; for `batches` see `export_to_onnx`."""
    args, keywords = split_arguments(batches[0])
    sizes = make_sizes_variable(batches)
    return torch.export.export(module.eval(), args, keywords, dynamic_shapes=sizes, strict=strict)


def _check_batch(inputs: Sequence[Any], count: int) -> None:
    """Raise NsoptError if inputs of an ONNX graph have a fixed batch size."""
    for value in inputs:
        if value.shape is not None and [*value.shape][:1] == [count]:
            raise NsoptError(
                f"an ONNX file of this network would take batches of {count} alone, in "
                f"{value.name}: {_CONSTANT}; or an input has its batch in another dimension, or "
                "only happens to have as many rows"
            )


def make_sizes_variable(batches: Sequence[Any]) -> Any:
    """Return `dynamic_shapes` for `torch.export`: the number of examples of the first batch varies,
    unless a list has an item for each, and sizes that differ in others.
    """
    counts = [] if lists_examples(batches[0]) else list(map(count_examples, batches))
    batch = torch.export.Dim("batch")

    def vary(leaf: Any, *others: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        sizes: dict[int, Any] = {
            axis: torch.export.Dim.DYNAMIC
            for axis, size in enumerate(leaf.shape)
            if any(other.shape[axis] != size for other in others)
        }
        is_batch = leaf.ndim and [len(tensor) for tensor in (leaf, *others)] == counts
        return sizes | {0: batch} if is_batch else sizes or None

    arguments = [keywords or args for args, keywords in map(split_arguments, batches)]
    return tree_map(vary, *arguments)


class OnnxNetwork:
    """An ONNX file in onnxruntime, on the CPU with PyTorch's number of threads.

    Raises NsoptError if onnxruntime cannot run it, as without a kernel for one of its operations.
    """

    def __init__(self, path: Path) -> None:
        runtime = import_for_export("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # it prints its errors and raises them
        providers = ["CPUExecutionProvider"]
        try:
            self._session = runtime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # its own classes, such as for a missing kernel of bfloat16
            kind, cure = type(error).__name__, "use PyTorch"
            if kind not in ("NotImplemented", "InvalidGraph", "Fail"):
                raise
            if kind == "NotImplemented":
                cure = f"convert it and its inputs to float32, or {cure}"
            raise NsoptError(
                f"onnxruntime cannot run this network: {short_reason(error)}; {cure}"
            ) from None

    def __call__(self, arrays: Arrays) -> Array:
        """Return the first output for a batch."""
        return self.compute(arrays)[0]

    def compute(self, arrays: Arrays) -> list[Array]:
        """Return all outputs for a batch."""
        outputs: list[Array] = self._session.run(None, arrays)
        return outputs

    def name_inputs(self, inputs: Any) -> dict[str, Array]:
        """Return the tensors of a batch as the arrays that a call takes."""
        names = [node.name for node in self._session.get_inputs()]
        tensors = tensors_in(inputs)
        is_flat = isinstance(inputs, Mapping) and set(names) <= inputs.keys()
        named = inputs if is_flat else dict(zip(names, tensors, strict=True))
        return {name: named[name].cpu().contiguous().numpy() for name in names}


def import_for_export(package: str) -> Any:
    """Import a package of the extra `export`. Raises NsoptError if it is missing."""
    try:
        return import_module(package)
    except ImportError:
        raise NsoptError(f"{package} is not installed: pip install 'nsopt[export]'") from None


@contextlib.contextmanager
def _silence_logger(name: str) -> Iterator[None]:
    """Let a logger, and those below it without a level of their own, log nothing in the block."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence PyTorch's exporters, which print progress, and whole networks where they fail.

    They cannot follow checks of values, as of the arguments of distributions.
    """
    unread = io.StringIO()
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(unread),
        contextlib.redirect_stderr(unread),
        _silence_logger("torch"),
        _silence_logger("onnxscript"),
        _silence_logger("onnx_ir"),
        trust_distributions(),
    ):
        yield


@contextlib.contextmanager
def explain_export(form: str) -> Iterator[None]:
    """Raise an NsoptError of one line in place of an exporter's error, which fills pages."""
    try:
        yield
    except NsoptError:
        raise
    except Exception as error:  # PyTorch raises anything
        cause: BaseException = error
        while isinstance(cause, OnnxExporterError) and cause.__cause__ is not None:
            cause = cause.__cause__  # it tells which of three steps failed
        text = str(cause)
        found = (re.search(pattern, text) and why for pattern, why in _WHY.items())
        reason = next(filter(None, found), short_reason(cause)[:_LONGEST])
        if operator := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)", text):
            reason = f"ONNX has no operator for {operator[1]}"
        elif not reason.count(" "):  # an operator's or key's name alone
            reason = f"{type(cause).__name__}: {reason}"
        raise NsoptError(f"PyTorch cannot export this network as {form}: {reason}") from None
