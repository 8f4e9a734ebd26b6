"""YOLO of ultralytics: traced, pruned, trained by its own trainer, and exported."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import nsopt
from nsopt.torchvision_import import import_torchvision
from tests.tracing.checks import trace_unchanged

pytestmark = [
    pytest.mark.networks,
    pytest.mark.filterwarnings("ignore"),  # of ultralytics, and that it prints
]
X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NETWORKS = {  # number of widths, share of the parameters left at half widths, at most
    "yolov5nu.yaml": (59, 0.35),
    "yolov8n.yaml": (48, 0.35),
    "yolov8n-seg.yaml": (50, 0.4),
    "yolov8n-pose.yaml": (54, 0.35),
    "yolov8n-cls.yaml": (20, 0.4),
    "yolo11n.yaml": (56, 0.4),
    "yolo11n-cls.yaml": (20, 0.4),
}


@pytest.fixture(autouse=True)
def ultralytics(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Any:
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    import_torchvision("models")
    return pytest.importorskip("ultralytics")


def make_yolo(ultralytics: Any, name: str) -> tuple[Any, nn.Module]:
    torch.manual_seed(0)
    yolo = ultralytics.YOLO(name)
    return yolo, yolo.model


@pytest.mark.parametrize("name", NETWORKS)
def test_yolo_can_be_traced_and_pruned(ultralytics: Any, name: str) -> None:
    _, model = make_yolo(ultralytics, name)
    arch = trace_unchanged(model, X)
    widths, share = NETWORKS[name]
    assert len(arch.base_widths) >= widths
    half = [max(1, width // 2) for width in arch.base_widths]
    cost = arch.cost("params")
    assert cost(half) < share * cost(arch.base_widths)


def write_images(folder: Path) -> Path:
    """Draw two images with one square each, in the layout of ultralytics; return the YAML file."""
    for place in ("images", "labels"):
        (folder / place).mkdir()
    for i in range(2):
        pixels = np.full((64, 64, 3), 40 * i, np.uint8)
        pixels[10 : 30 + 10 * i, 10 : 30 + 10 * i] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        side = (20 + 10 * i) / 64
        middle = 10 / 64 + side / 2
        (folder / "labels" / f"{i}.txt").write_text(f"0 {middle} {middle} {side} {side}\n")
    file = folder / "data.yaml"
    where = {"path": str(folder), "train": "images", "val": "images", "names": {0: "square"}}
    file.write_text(yaml.safe_dump(where))
    return file


def read_fine_tune(ultralytics: Any) -> Any:
    """Return the function that docs/yolo.md gives its readers."""
    page = Path(__file__).parents[2] / "docs" / "yolo.md"
    (code,) = re.findall(r"^```python\n(def fine_tune.*?)^```", page.read_text(), re.M | re.S)
    defined: dict[str, Any] = {"torch": torch, "YOLO": ultralytics.YOLO}
    exec(code, defined)
    return defined["fine_tune"]


def test_yolo_trains_exports_and_loads_a_pruned_network(ultralytics: Any, tmp_path: Path) -> None:
    yolo, model = make_yolo(ultralytics, "yolov8n.yaml")
    arch = nsopt.trace(model, X)
    halves = [(norm, max(1, len(norm) // 2)) for norm in arch.filter_norms(model)]
    kept = [norm.topk(half).indices.sort().values for norm, half in halves]
    small = arch.prune(model, kept)
    size = sum(p.numel() for p in small.parameters())
    assert size < 0.35 * sum(p.numel() for p in model.parameters())

    yolo.model = small
    read_fine_tune(ultralytics)(
        yolo,
        small,
        data=str(write_images(tmp_path)),
        epochs=2,
        imgsz=64,
        batch=2,
        device="cpu",
        workers=0,
        plots=False,
        project=str(tmp_path),
        name="run",
        amp=False,
    )
    best = ultralytics.YOLO(str(tmp_path / "run" / "weights" / "best.pt"))
    assert sum(p.numel() for p in best.model.parameters()) == size
    both, name = (arch.prune(model, kept), best.model), "model.0.conv.weight"
    before, after = (each.state_dict()[name].float() for each in both)
    assert before.shape == after.shape
    file = best.export(format="torchscript", imgsz=64, device="cpu")
    assert torch.jit.load(file)(X).shape[0] == 2
