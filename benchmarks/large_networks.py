"""How long `nsopt.trace` takes for eight large networks, and how much memory.

Prints seconds of processor time on one thread, and by how much the process grew at its peak, with
the network itself not counted (on Linux). Random weights; each network runs in its own process.

Needs more packages: pip install transformers ultralytics.
"""

import argparse
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import torch
from torch import nn

import nsopt
from benchmarks.package_networks import make_yolo
from nsopt.torchvision_import import import_torchvision

Made = tuple[nn.Module, Any]  # a network and its inputs
WORDS = torch.arange(64).reshape(2, 32) + 5
WHISPER_SMALL = {
    f"{side}_{what}": size
    for side in ("encoder", "decoder")
    for what, size in (("layers", 12), ("attention_heads", 12), ("ffn_dim", 3072))
}


def make_transformer(name: str, inputs: Any, **sizes: Any) -> Made:
    kind = getattr(import_module("transformers"), name)
    return kind(kind.config_class(**sizes)), inputs


def make_detr(name: str, backbone: str, side: int) -> Made:
    hub = import_module("transformers")
    own = getattr(hub, backbone)(out_features=["stage2", "stage3", "stage4"])
    if name.startswith("Detr"):
        own = getattr(hub, backbone)(out_features=["stage4"])
    sizes = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    images = {"pixel_values": torch.rand(2, 3, side, side)}
    return make_transformer(name, images, backbone_config=own, **sizes)


NETWORKS: dict[str, Callable[[], Made]] = {
    "Whisper-small": lambda: make_transformer(
        "WhisperForConditionalGeneration",
        {"input_features": torch.rand(2, 80, 3000), "decoder_input_ids": WORDS},
        d_model=768,
        **WHISPER_SMALL,
    ),
    "RT-DETR": lambda: make_detr("RTDetrForObjectDetection", "RTDetrResNetConfig", 256),
    "DETR": lambda: make_detr("DetrForObjectDetection", "ResNetConfig", 256),
    "YOLO11x": lambda: make_yolo("yolo11x"),
    "T5-base": lambda: make_transformer(
        "T5ForConditionalGeneration",
        {"input_ids": WORDS, "decoder_input_ids": WORDS},
        **{"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    ),
    "YOLO11m": lambda: make_yolo("yolo11m"),
    "BERT-base": lambda: make_transformer("BertForSequenceClassification", {"input_ids": WORDS}),
    "ViT-B": lambda: (import_torchvision("models").vit_b_16(), torch.rand(2, 3, 224, 224)),
}


def measure(name: str) -> None:
    """Trace a network and print the time, the memory, the widths."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of other libraries
    import_torchvision("models")
    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    nsopt.trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.rand(2, 4))  # imports
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the trace
    before = read_memory("VmRSS")
    start = time.process_time()
    arch = nsopt.trace(model, inputs)
    spent = time.process_time() - start
    grown = read_memory("VmHWM") - before
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{name:14} {size:6.1f} M parameters {spent:5.1f} s {grown:5.0f} MB "
        f"{len(arch.base_widths):4} widths",
        flush=True,
    )


def read_memory(name: str) -> float:
    """Return the resident memory of this process, or its peak, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    for name in parser.parse_args().networks:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(name,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
