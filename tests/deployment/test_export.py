"""Kept networks, exported and loaded again."""

import inspect
import itertools
import json
import logging
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError

import nsopt
from nsopt import Architecture, ImageData, NsoptError, TrainSettings
from nsopt.data.images import ImageSet
from nsopt.deployment.export import (
    WithNormalisation,
    check_close,
    check_export,
    compare_outputs,
    compare_runs,
    export,
    load_exported,
)
from nsopt.deployment.kept import KeptNetwork, load_network
from nsopt.latency.runtime import OnnxRuntime
from nsopt.models import onnx
from nsopt.models.onnx import explain_export, export_to_onnx
from nsopt.scaling.metric import PARAMS
from nsopt.storage.trials import Point
from tests.networks import keep

FORMATS = ("onnx", "pt2", "state_dict")


@pytest.fixture(scope="module")
def kept(narrow: Architecture, digits: ImageData) -> KeptNetwork:
    settings = TrainSettings(epochs=1, batch_size=32, lr=0.02, precision="fp32", device="cpu")
    outcome = nsopt.train(narrow, narrow.base_widths, digits, settings)
    point = Point("uniform", PARAMS, 1000, 0, 0.25)
    splits = digits.split(settings.val_fraction)
    return KeptNetwork.of(narrow.name, point, outcome, splits, digits.classes)


def test_a_kept_file_contains_all_that_predictions_need(
    kept: KeptNetwork, digits: ImageData, tmp_path: Path
) -> None:
    kept.save(tmp_path / "kept.pt")
    loaded = load_network(tmp_path / "kept.pt")
    assert loaded.facts == kept.facts
    assert loaded.classes == digits.classes
    assert loaded.input_shape == (1, 32, 32)
    pixels = digits.split(0.1).train.images.double() / 255
    assert loaded.mean[0] == pytest.approx(float(pixels.mean()), rel=1e-5)
    assert loaded.std[0] == pytest.approx(float(pixels.std()), rel=1e-5)
    logits = WithNormalisation(loaded)(digits.test.images / 255)
    right = (logits.argmax(dim=1) == digits.test.labels).double().mean()
    assert 100 * float(right) == pytest.approx(kept.test_accuracy)


@pytest.fixture(scope="module")
def exported(kept: KeptNetwork, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of every format."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in FORMATS:
        export(kept, folder / kind, kind)
    return {kind: folder / kind for kind in FORMATS}


@pytest.mark.parametrize("kind", FORMATS)
def test_an_exported_network_computes_the_same_outputs(
    kind: str, kept: KeptNetwork, exported: dict[str, Path], digits: ImageData
) -> None:
    path = exported[kind]
    check = check_export(kept, path, kind, digits.test)
    assert check.exported == pytest.approx(kept.test_accuracy)
    assert check.difference < 1e-5
    predict = load_exported(path, kind)
    assert predict(torch.rand(1, 1, 32, 32)).shape == (1, 10)
    assert predict(torch.rand(7, 1, 32, 32)).shape == (7, 10)


def test_a_network_in_place_of_its_architecture_is_named(kept: KeptNetwork, tmp_path: Path) -> None:
    kept.save(tmp_path / "kept.pt")
    given: Any = kept.model
    with pytest.raises(NsoptError, match=r"arch is a network: give arch=nsopt\.trace"):
        load_network(tmp_path / "kept.pt", given)


def test_the_suffix_of_a_file_names_its_format(kept: KeptNetwork, tmp_path: Path) -> None:
    export(kept, tmp_path / "network.pth")
    assert load_network(tmp_path / "network.pth").facts == kept.facts
    with pytest.raises(NsoptError, match=r"network\.pt2 would be a file of onnx: give it another"):
        export(kept, tmp_path / "network.pt2", "onnx")
    with pytest.raises(NsoptError, match=r"no format has the suffix \.bin: give format="):
        export(kept, tmp_path / "network.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["network.pth"]


def test_exported_files_have_their_facts(kept: KeptNetwork, exported: dict[str, Path]) -> None:
    session = InferenceSession(exported["onnx"])
    found = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in found.items()} == kept.facts
    files = {"nsopt.json": ""}
    torch.export.load(exported["pt2"], extra_files=files)
    assert json.loads(files["nsopt.json"]) == kept.facts


def test_a_kept_network_consists_of_plain_modules(kept: KeptNetwork) -> None:
    """So other tools recognise them."""
    packages = {type(module).__module__.split(".")[0] for module in kept.model.modules()}
    assert packages <= {"torch", "nsopt"}
    assert all(type(m).forward is getattr(nn, type(m).__name__).forward for m in leaves(kept.model))
    traced = torch.fx.symbolic_trace(kept.model)
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(traced(x), kept.model(x))


def leaves(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not list(module.children())]


def other_weights(kept: KeptNetwork) -> KeptNetwork:
    arch = nsopt.get_architecture(kept.arch, 10, 32, 1)
    return replace(kept, model=arch.build(kept.widths).eval())


def test_wrong_weights_are_detected(kept: KeptNetwork, digits: ImageData, tmp_path: Path) -> None:
    export(kept, tmp_path / "network", "state_dict")
    images = digits.test.images
    found = load_exported(tmp_path / "network", "state_dict")(images / 255).argmax(1)
    with pytest.raises(NsoptError, match=r"reaches 100\.00 % on .*give the images of the study"):
        check_export(kept, tmp_path / "network", "state_dict", ImageSet(images, found))
    with pytest.raises(NsoptError, match="outputs differ from PyTorch"):
        check_export(other_weights(kept), tmp_path / "network", "state_dict", digits.test)


@pytest.mark.parametrize("use", [export, lambda kept, path, kind: load_exported(path, kind)])
def test_unknown_formats_and_missing_packages_raise_an_error(
    use: Callable[..., object], kept: KeptNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NsoptError, match="unknown format 'onx': did you mean 'onnx'"):
        use(kept, tmp_path / "network", "onx")
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "network").touch()
    with pytest.raises(NsoptError, match=r"is not installed: pip install 'nsopt\[export\]'"):
        use(kept, tmp_path / "network", "onnx")


def test_what_the_exporter_cannot_do_is_told_by_the_cause_of_its_error() -> None:
    told = pytest.raises(NsoptError, match=r"this network as onnx: no function for aten\.cdist$")
    with told, explain_export("onnx"):
        raise OnnxExporterError("\x1b[96mThis is step 3/3\x1b[0m") from ValueError(
            "no function for aten.cdist\nand more"
        )


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if bool((x > 0).all()) else x


class Branching(nn.Module):
    """Small batches take another path."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(y * 2 if len(x) < 3 else y)


def test_files_are_run_on_other_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, file = Branching().eval(), torch.randn(6, 8), tmp_path / "network"
    arch = nsopt.trace(model, x)
    network = keep(model, arch.base_widths)
    with pytest.raises(NsoptError, match="would take batches of 6 alone, in x: its code makes a"):
        export(network, file, "onnx", x)
    monkeypatch.setattr(onnx, "_check_batch", lambda *_: None)
    export(network, file, "onnx", x)
    with pytest.raises(NsoptError, match=r"not run on 1 examples \(.*\): export it in another"):
        compare_outputs(network, file, "onnx", arch, x)


class InOneDictionary(Branching):
    """Its only argument is a dictionary; some outputs are empty, NaN or random."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:  # type: ignore[override]
        y = self.first(batch["x"]).relu()
        few = batch["x"].new_zeros(0), batch["x"] * torch.nan, torch.rand_like(batch["x"])
        return {"y": batch["x"] * 2, "rest": [self.last(y), batch["x"] * 0, *few]}


def check_files(
    model: nn.Module, inputs: Any, folder: Path
) -> tuple[KeptNetwork, nsopt.Architecture]:
    """Export a network in both formats, and compare the outputs."""
    arch = nsopt.trace(model, inputs)
    network = keep(model)
    for form in ("onnx", "pt2"):
        export(network, folder / form, form, inputs)
        assert compare_outputs(network, folder / form, form, arch, inputs) < 1e-5
    return network, arch


class Named(Branching):
    """Returns a dictionary; a key may have the name of an argument."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: Tensor) -> dict[str, Any]:  # type: ignore[override]
        y = self.first(x).relu()
        rest = {"none": None} if self.key == "none" else {"aux": (y.mean(1),)}
        return {self.key: self.last(y), **rest, "last": y * 2}


@pytest.mark.parametrize(
    ("key", "names"),
    [("out", ["out", "aux_0", "last"]), ("x", None), ("relu", None), ("none", None)],
)
def test_keys_of_a_dictionary_are_names(key: str, names: list[str] | None, tmp_path: Path) -> None:
    x, file = torch.randn(6, 8), tmp_path / "net.onnx"
    export_to_onnx(Named(key).eval(), [x], {}, file)
    found = [output.name for output in InferenceSession(file).get_outputs()]
    assert found == names or (names is None and "last" not in found)


def test_all_outputs_of_a_file_are_compared(tmp_path: Path) -> None:
    model = InOneDictionary().eval()
    x = ({"x": torch.randn(6, 8)},)
    network, arch = check_files(model, x, tmp_path)
    with torch.no_grad():
        model.last.bias.add_(0.1)
    for form in ("onnx", "pt2"):
        with pytest.raises(NsoptError, match="the exported network is wrong: its outputs differ"):
            compare_outputs(network, tmp_path / form, form, arch, x)


class Silent(nn.Linear):
    """Its outputs are all 0; its state holds a number that is no tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(min=1e9) - 1e9

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"steps": 3}


def test_outputs_may_all_be_zero_and_states_hold_more_than_tensors(tmp_path: Path) -> None:
    model, x, file = nn.Sequential(nn.Linear(8, 16), Silent(16, 4)).eval(), torch.randn(6, 8), "net"
    arch = nsopt.trace(model, x)
    network = keep(model, arch.base_widths)
    export(network, tmp_path / file, "onnx", x)
    assert compare_outputs(network, tmp_path / file, "onnx", arch, x) == 0
    network.save(tmp_path / "kept.pt")
    torch.testing.assert_close(load_network(tmp_path / "kept.pt", arch).model(x), model(x))


class Masking(nn.Linear):
    """It excludes two classes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tensor([0.0, 0.0, -torch.inf, 0.0, -1e9])


def test_classes_that_a_network_excludes_are_compared_with_themselves(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), Masking(16, 5)).eval(), torch.randn(6, 8)
    arch, network, file = nsopt.trace(model, x), keep(model), tmp_path / "net"
    export(network, file, "onnx", x)
    assert compare_outputs(network, file, "onnx", arch, x) < 1e-5
    with torch.no_grad():
        model.get_parameter("1.bias")[0] += 0.1
    with pytest.raises(NsoptError, match="the exported network is wrong: its outputs differ"):
        compare_outputs(network, file, "onnx", arch, x)


@pytest.mark.parametrize("values", ["masked", "boxes"])
def test_a_difference_is_relative_to_what_is_no_mask(values: str) -> None:
    outputs = torch.randn(50, 40).double()
    if values == "masked":
        outputs[:, 10:] = -1e9
    else:  # of a detector: four numbers of pixels, and scores that are hardly above 0
        outputs, outputs[:, :4] = outputs.exp() * 1e-7, 300 * outputs[:, :4]
    assert check_close([(outputs * (1 + 1e-6), outputs)]) < 1e-5
    near = outputs.clone()
    near[0, 0] += 1e-5
    assert check_close([(near, outputs)]) < 1e-4
    near[0, 0] += outputs[outputs.abs() < 1e9].abs().max() / 10
    with pytest.raises(NsoptError, match=r"by \d\.\de-02|by 1\.0e-01"):
        check_close([(near, outputs)])


class Counting(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu().reshape(len(x), -1))


@pytest.mark.parametrize("exported", [lambda x: x.T, lambda x: (x, x), lambda x: ()])
def test_other_outputs_than_those_of_the_network_are_refused(exported: Any) -> None:
    with pytest.raises(NsoptError, match=r"its outputs have the shapes \[.*PyTorch's \[\(2, 3\)\]"):
        compare_runs(exported, nn.Identity(), [torch.ones(2, 3)])


def test_code_may_ask_for_the_batch_size_by_len(tmp_path: Path) -> None:
    model, x, more = Counting().eval(), torch.randn(4, 8), torch.randn(7, 8)
    for form in ("onnx", "pt2"):
        export(keep(model), tmp_path / form, form, x)
        torch.testing.assert_close(load_exported(tmp_path / form, form)(more), model(more))


def find_obstacle(model: nn.Module, inputs: Any, form: str, folder: Path) -> str:
    """Return why a network cannot be exported."""
    with pytest.raises(NsoptError) as error:
        export(keep(model), folder / "network", form, inputs)
    return str(error.value)


class OneByOne(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.last(self.first(x[i]).relu()) for i in range(x.shape[0])])


def test_a_loop_over_the_examples_cannot_be_exported(tmp_path: Path) -> None:
    x, forms = torch.ones(4, 8), ("onnx", "pt2")
    both = {form: find_obstacle(OneByOne(), x, form, tmp_path) for form in forms}
    assert "take batches of 4 alone, in x: its code makes a size a" in both["onnx"]
    assert both["pt2"].endswith("makes a size a constant, as a loop over examples or steps does")


class Listing(Branching):
    def forward(self, images: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(torch.stack(images).flatten(1))


def test_a_file_for_a_list_of_examples_takes_as_many(tmp_path: Path) -> None:
    model, images = Listing().eval(), (list(torch.randn(3, 1, 2, 4)),)
    check_files(model, images, tmp_path)


class Averaging(Branching):
    """A network of sequences, whose length may vary unless `unrolled`."""

    def __init__(self, unrolled: bool) -> None:
        super().__init__()
        self.unrolled = unrolled

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
        if self.unrolled:
            x = torch.stack([x[:, i] for i in range(x.shape[1])], 1)
        return self.last(self.first(x * weights[..., None]).relu().mean(1))


def test_sizes_that_differ_between_the_batches_of_a_task_vary_in_files(tmp_path: Path) -> None:
    batches = [((torch.randn(4, n, 8), torch.rand(4, n)), torch.zeros(4)) for n in (5, 5, 9)]
    task, longer = nsopt.Task(batches), (torch.randn(3, 12, 8), torch.rand(3, 12))
    for form in ("onnx", "pt2"):
        model, file = Averaging(unrolled=False).eval(), tmp_path / form
        arch = nsopt.trace(model, task.inputs)
        export(keep(model), file, form, task)
        predict = load_exported(file, form)
        torch.testing.assert_close(predict(longer), model(*longer))
        assert compare_outputs(keep(model), file, form, arch, task.inputs) < 1e-5
        network = keep(Averaging(unrolled=True).eval())
        shapes = rf"the {form} file takes inputs of the shapes \[\(4, 5, 8\), \(4, 5\)\] alone"
        with pytest.warns(UserWarning, match=shapes):
            export(network, file, form, task)
        assert compare_outputs(network, file, form, arch, task.inputs) < 1e-5


class Long(Branching):
    """Computes something else for long inputs, which an ONNX file forgets."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.first(x).relu())
        return 2 * y if x.shape[1] > 6 else y


class Scaling(Branching):
    """One of its inputs has no batch, and as many rows as the batch by chance."""

    def forward(self, x: Tensor, scales: Tensor) -> Tensor:  # type: ignore[override]
        return self.last(self.first(x).relu()) * scales.sum()


def test_a_file_that_differs_at_other_sizes_takes_one_size(tmp_path: Path) -> None:
    task = nsopt.Task([torch.randn(4, n, 8) for n in (5, 7)])
    for form in ("onnx", "pt2"):
        with pytest.warns(UserWarning, match=rf"the {form} file takes inputs of the shapes"):
            export(keep(Long().eval()), tmp_path / form, form, task)


def test_rows_that_are_the_batch_in_one_batch_alone_are_none(tmp_path: Path) -> None:
    batches = [{"x": torch.randn(4, 8), "scales": torch.rand(n)} for n in (4, 3, 6)]
    model, other = Scaling().eval(), {"scales": torch.rand(5), "x": torch.randn(2, 8)}
    for form in ("onnx", "pt2"):
        export(keep(model), tmp_path / form, form, nsopt.Task(batches))
        torch.testing.assert_close(load_exported(tmp_path / form, form)(other), model(**other))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        return self.a(x)


class Naming(Plain):
    def forward(self, x: Tensor) -> Any:
        return {"y": self.a(x), "name": "branching"}


class Drawing(Plain):
    def forward(self, x: Tensor) -> Any:
        return torch.poisson(self.a(x).abs())


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Any:
        if torch.compiler.is_exporting():
            raise RuntimeError("not\nhere\n" * 99)
        return x


class Wordy(nn.Module):
    def forward(self, x: Tensor) -> Any:
        raise KeyError("k" * 5000)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Deciding(), "its code decides by the values of a tensor: write torch.where"),
        (Naming(), "it returns something else than tensors, or tuples, lists and dictionaries"),
        (Drawing(), "ONNX has no operator for aten.poisson"),
        (Failing(), "RuntimeError: not"),
        (Wordy(), "KeyError: 'kkk"),
    ],
)
def test_what_pytorch_refuses_is_one_line(
    model: nn.Module,
    reason: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])
    obstacle = find_obstacle(model, torch.ones(2, 3), "onnx", tmp_path)
    assert obstacle.startswith(f"PyTorch cannot export this network as onnx: {reason}")
    assert "\n" not in obstacle
    assert len(obstacle) < 300
    assert capfd.readouterr() == ("", "")


FEATURES: dict[str, Any] = {}
SCALES = itertools.count(2)  # no two runs compute the same


class Recorder:
    """Hooks of all kinds, which keep the features of a layer somewhere."""

    seen: ClassVar[list[Any]] = []
    latest: Any = None

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def method(self, *call: Any) -> None:
        self.kept.append(call[-1])

    def __call__(self, *call: Any) -> None:
        self.seen.append(call[-1])
        type(self).latest = call[-1]


def keep_in_dictionary(features: dict[str, Any]) -> Callable[..., None]:
    return lambda *call: features.update(y=call[-1])


def keep_in_lists(features: dict[str, list[Any]]) -> Callable[..., None]:
    return lambda *call: features["y"].append(call[-1])


def keep_in_variable(count: int) -> Callable[..., Any]:
    def hook(*call: Any) -> None:
        nonlocal count
        count += 1

    return hook


def keep_in_default(*call: Any, features: Any = FEATURES) -> None:
    features["default"] = call[-1]


def keep_in_global(*call: Any) -> None:
    FEATURES["global"] = call[-1]


def keep_mean(mean: Tensor) -> Callable[..., None]:
    def hook(*call: Any) -> None:
        if not torch.compiler.is_exporting():
            mean.add_(call[-1].mean())

    return hook


HELD: list[Any] = [{"y": 1}, defaultdict(list, y=[1]), [], Recorder(), torch.zeros(())]
HOOKS = {
    "dictionary": keep_in_dictionary(HELD[0]),
    "lists": keep_in_lists(HELD[1]),
    "variable": keep_in_variable(0),
    "default": keep_in_default,
    "global": keep_in_global,
    "partial": partial(lambda kept, *call: kept.append(call[-1]), HELD[2]),
    "method": HELD[3].method,
    "object": HELD[3],
    "mean": keep_mean(HELD[4]),
}


class InGlobal(Plain):
    """Its forward keeps what it computes, without a hook."""

    def forward(self, x: Tensor) -> Any:
        FEATURES["forward"] = y = self.a(x)
        return y


def describe_kept() -> list[str]:
    """Return what each hook and the network itself have kept."""
    counted = inspect.getclosurevars(HOOKS["variable"]).nonlocals
    held = *HELD[:3], HELD[3].kept, HELD[4].item(), counted, Recorder.seen, Recorder.latest
    return list(map(repr, (*held, *map(FEATURES.get, ("default", "global", "forward")))))


@pytest.mark.parametrize("form", ["onnx", "pt2", "runtime"])
def test_an_export_leaves_what_code_keeps_in_memory(form: str, tmp_path: Path) -> None:
    model, inputs = InGlobal().train(), torch.rand(3, 3)
    for hook in HOOKS.values():
        model.a.register_forward_hook(hook)
    before = describe_kept()
    if form == "runtime":
        OnnxRuntime().prepare(model, inputs, torch.device("cpu"))
    else:
        network, arch = keep(model), nsopt.get_architecture("vgg11")  # not read
        export(network, tmp_path / "network", form, inputs)
        compare_outputs(network, tmp_path / "network", form, arch, inputs)
    assert describe_kept() == before
    assert all(module.training for module in model.modules())
    model(next(SCALES) * inputs)
    after = describe_kept()
    assert all(one != other for one, other in zip(after, before, strict=True)), "it still keeps it"


def test_a_graph_that_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    """PyTorch writes such graphs for inverse Fourier transforms."""
    types = {"x": TensorProto.FLOAT, "y": TensorProto.INT32, "z": TensorProto.FLOAT}
    x, y, z = (helper.make_tensor_value_info(name, kind, [2]) for name, kind in types.items())
    graph = helper.make_graph([helper.make_node("Add", ["x", "y"], ["z"])], "sum", [x, y], [z])
    older = {"ir_version": 10, "opset_imports": [helper.make_opsetid("", 18)]}
    (tmp_path / "sum.onnx").write_bytes(helper.make_model(graph, **older).SerializeToString())
    with pytest.raises(NsoptError, match=r"onnxruntime cannot run this network: .*; use PyTorch$"):
        onnx.OnnxNetwork(tmp_path / "sum.onnx")


def test_a_file_for_which_onnxruntime_has_no_kernel_is_named(tmp_path: Path) -> None:
    layers = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)
    model, x = nn.Sequential(*layers).bfloat16().eval(), torch.randn(6, 8).bfloat16()
    file, message = tmp_path / "network.onnx", "cannot run this network: .*Gemm.*convert .* float32"
    export_to_onnx(model, [x], {}, file)
    with pytest.raises(NsoptError, match=message):
        load_exported(file, "onnx")
    assert re.search(message, find_obstacle(model, x, "onnx", tmp_path))  # it is not written
