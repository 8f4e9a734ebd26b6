"""Check nsopt on networks of the packages that people use, beside Torch-Pruning.

A row of `packages.csv` for every network, with random weights and small inputs:
- widths: how many can change,
- share: of the parameters, those in tensors with a width that can change,
- exact: in float64 a pruned network computes what the whole one does with the removed units at
  zero, to 1e-9; units whose removal is inexact stay,
- trains: a step of training of the network at half of all widths gives finite gradients,
- exports: so that network computes the same after `torch.export`, or else after `torch.jit.trace`,
- torch_pruning: Torch-Pruning 1.6.1 prunes 40 % of all channels at random, and the network runs,
- trace_s: seconds of processor time of the trace, on one thread.

A cell has `ok`, the way of the export, or the error. Each network runs in a process of its own.
Networks with results are not run again; delete a row to run it.

Needs more packages: pip install 'nsopt[timm]' diffusers segmentation-models-pytorch transformers
torch-pruning==1.6.1 ultralytics.
"""

import argparse
import csv
import multiprocessing
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import nsopt
from benchmarks.unseen_networks import share_that_changes
from nsopt.models.imported import network_factory
from nsopt.models.inputs import call_network
from nsopt.models.tracing.architecture import TracedArchitecture
from nsopt.models.tracing.originals import copy_model
from nsopt.torchvision_import import import_torchvision
from tests.models.tracing.checks import choose_units, randomise, with_zeros
from tests.models.tracing.operators import install_operators
from tests.models.tracing.test_networks_detectors import DETECTORS, make_detector
from tests.models.tracing.test_networks_timm import NETWORKS as TIMM
from tests.models.tracing.test_networks_torchvision import NETWORKS as TORCHVISION

TABLE = Path(__file__).with_suffix(".csv")
COLUMNS = ("network", "widths", "share", "exact", "trains", "exports", "torch_pruning", "trace_s")
_LIMITS_S, _LIMIT_BYTES = (280, 75), 12 * 2**30  # of nsopt, of Torch-Pruning
WORDS = torch.arange(24).reshape(2, 12) % 90 + 5
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
TEXT = {**SMALL, "vocab_size": 100, "max_position_embeddings": 32, "pad_token_id": 0}
IMAGES = {**SMALL, "image_size": 32, "patch_size": 8}
SIDES = {
    f"{side}_{what}": value
    for side in ("encoder", "decoder")
    for what, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 96))
}
SPEECH: dict[str, Any] = {
    **SMALL,
    "conv_dim": (16, 16),
    "conv_kernel": (5, 3),
    "conv_stride": (3, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
}
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
TRANSFORMERS: dict[str, dict[str, Any]] = {  # sizes by the name of the class
    "BertForSequenceClassification": TEXT,
    "RobertaForSequenceClassification": TEXT,
    "ElectraForSequenceClassification": {**TEXT, "embedding_size": 48},
    "MPNetForSequenceClassification": TEXT,
    "AlbertForSequenceClassification": {**TEXT, "embedding_size": 48},
    "DebertaV2ForSequenceClassification": TEXT,
    "DistilBertForSequenceClassification": {
        **{"dim": 64, "n_heads": 4, "n_layers": 2, "hidden_dim": 96, "vocab_size": 100}
    },
    "GPT2LMHeadModel": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    "OPTForCausalLM": {**TEXT, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "GPTNeoXForCausalLM": TEXT,
    "LlamaForCausalLM": {**TEXT, "num_key_value_heads": 2},
    "MistralForCausalLM": {**TEXT, "num_key_value_heads": 2},
    "Qwen2ForCausalLM": {**TEXT, "num_key_value_heads": 2},
    "Gemma2ForCausalLM": {**TEXT, "num_key_value_heads": 2, "head_dim": 16},
    "Phi3ForCausalLM": {**TEXT, "num_key_value_heads": 2},
    "T5ForConditionalGeneration": {
        **{"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4},
        "vocab_size": 100,
    },
    "BartForConditionalGeneration": {**SIDES, "d_model": 64, "vocab_size": 100},
    "WhisperForConditionalGeneration": {
        **SIDES,
        **{"d_model": 64, "vocab_size": 100, "num_mel_bins": 16, "max_source_positions": 20},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    },
    "Wav2Vec2Model": SPEECH,
    "HubertModel": SPEECH,
    "ViTForImageClassification": IMAGES,
    "DeiTForImageClassification": IMAGES,
    "BeitForImageClassification": IMAGES,
    "Dinov2ForImageClassification": IMAGES,
    "SwinForImageClassification": {
        **{"image_size": 32, "patch_size": 2, "embed_dim": 16, "window_size": 4},
        **{"depths": [1, 2], "num_heads": [2, 4]},
    },
    "ConvNextForImageClassification": STAGES,
    "ResNetForImageClassification": {**STAGES, "embedding_size": 16, "layer_type": "basic"},
    "SegformerForSemanticSegmentation": {
        **{"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32},
        **{"num_attention_heads": [1, 2, 2, 4]},
    },
    "CLIPModel": {"text_config": {**TEXT, "eos_token_id": 2}, "vision_config": IMAGES},
    "SiglipModel": {"text_config": TEXT, "vision_config": IMAGES},
    "DetrForObjectDetection": {**SIDES, "d_model": 64, "num_queries": 5},
}
DIFFUSERS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {
        **{"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1},
        **{"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 8},
        **{"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 8},
    },
    "UNet2DConditionModel": {
        **{"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1},
        **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 8},
        **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 8},
        "cross_attention_dim": 32,
    },
    "AutoencoderKL": {
        **{"block_out_channels": (16, 32), "norm_num_groups": 8, "sample_size": 16},
        **{"down_block_types": ("DownEncoderBlock2D",) * 2},
        **{"up_block_types": ("UpDecoderBlock2D",) * 2},
    },
    "DiTTransformer2DModel": {
        **{"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "sample_size": 16},
        "norm_num_groups": 8,
    },
}
YOLO = (
    *("yolov3-tiny", "yolov5n", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-cls"),
    *("yolov9t", "yolov10n", "yolo11n", "yolo11n-cls", "yolo12n", "yolo26n"),
)
SEGMENTATION = ("Unet", "FPN", "DeepLabV3Plus", "Linknet", "PSPNet", "Segformer")
Made = tuple[nn.Module, Any]  # a network and its inputs


def make_named(word: str, size: int) -> Made:
    return network_factory(word)(10), torch.randn(2, 3, size, size)


def make_transformer(name: str) -> Made:
    import_torchvision("models")
    hub = import_module("transformers")
    kind, sizes = getattr(hub, name), dict(TRANSFORMERS[name])
    if name == "DetrForObjectDetection":
        backbone = hub.ResNetConfig(
            **STAGES, embedding_size=16, layer_type="basic", out_features=["stage4"]
        )
        sizes |= {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
        sizes["backbone_config"] = backbone
    config = kind.config_class(**sizes)
    for each in (config, *(getattr(config, part) for part in config.sub_configs)):
        each.use_cache = False
    model = kind(config)
    asked = model.main_input_name
    inputs: dict[str, Tensor] = {
        "input_ids": WORDS,
        "pixel_values": torch.randn(2, 3, 32, 32),
        "input_features": torch.randn(2, 16, 40),
        "input_values": torch.randn(2, 400),
    }
    chosen = {asked: inputs[asked]}
    if name in ("CLIPModel", "SiglipModel"):
        chosen["pixel_values"] = inputs["pixel_values"]
    if getattr(config, "is_encoder_decoder", False) and not name.startswith("Detr"):
        chosen["decoder_input_ids"] = WORDS
    return model, chosen


def make_diffuser(name: str) -> Made:
    import_torchvision("models")
    model = getattr(import_module("diffusers"), name)(**DIFFUSERS[name])
    images = torch.randn(2, model.config.in_channels, 16, 16)
    time = torch.tensor([3, 7])
    if name == "UNet2DConditionModel":
        return model, (images, time, torch.randn(2, 5, 32))
    if name == "DiTTransformer2DModel":
        return model, {"hidden_states": images, "timestep": time, "class_labels": time}
    return model, (images,) if name == "AutoencoderKL" else (images, time)


def make_yolo(name: str) -> Made:
    import_torchvision("models")
    os.environ["YOLO_OFFLINE"] = "true"
    return import_module("ultralytics").YOLO(f"{name}.yaml").model, torch.rand(2, 3, 64, 64)


def make_segmentation(name: str) -> Made:
    import_torchvision("models")
    kind = getattr(import_module("segmentation_models_pytorch"), name)
    return kind("resnet18", encoder_weights=None), torch.rand(2, 3, 64, 64)


def make_found(name: str) -> Made:
    install_operators()
    return make_detector(name), torch.rand(2, 3, 96, 96)


NETWORKS: dict[str, Callable[[], Made]] = {
    **{word: partial(make_named, word, size[0]) for word, size in (TORCHVISION | TIMM).items()},
    **{f"torchvision:{name}": partial(make_found, name) for name in DETECTORS},
    **{f"ultralytics:{name}": partial(make_yolo, name) for name in YOLO},
    **{f"transformers:{name}": partial(make_transformer, name) for name in TRANSFORMERS},
    **{f"diffusers:{name}": partial(make_diffuser, name) for name in DIFFUSERS},
    **{f"smp:{name}": partial(make_segmentation, name) for name in SEGMENTATION},
}


def outcome(check: Callable[[], object]) -> str:
    """Return `ok`, what the check returns, or the first line of its error."""
    try:
        return str(check() or "ok")
    except Exception as error:  # other libraries and networks may raise anything
        first = re.sub(r"\x1b\[\d+m", "", str(error)).strip().partition("\n")[0]  # no colours
        return f"{type(error).__name__}: {first}"[:100]


def is_detector(word: str) -> bool:
    return word.partition(":")[2] in DETECTORS


def convert(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tree_map_only(Tensor, lambda t: change(t) if t.is_floating_point() else t, inputs)


def compute(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return all tensors with fractions in what a network returns."""
    leaves = tree_leaves(call_network(model, inputs))
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]


def check_exact(arch: TracedArchitecture, model: nn.Module, inputs: Any) -> None:
    kept = choose_units(arch, seed=0, inexact=False)
    smaller = arch.prune(model, [indices.tolist() for indices in kept])
    doubles = convert(inputs, Tensor.double)
    with torch.no_grad():
        expected, found = (
            compute(copy_model(network).double().eval(), doubles)
            for network in (with_zeros(arch, model, kept), smaller)
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def check_training(word: str, model: nn.Module, inputs: Any) -> None:
    model.train()
    if is_detector(word):
        box = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
        box["masks"] = torch.ones(1, 96, 96, dtype=torch.uint8)
        box["keypoints"] = torch.tensor([[[30.0, 30.0, 1.0]] * 17])
        results = list(model(list(inputs), [dict(box), dict(box)]).values())
    else:
        results = compute(model, inputs)
    sum(result.square().mean() for result in results if result.requires_grad).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def check_export(model: nn.Module, inputs: Any) -> str:
    model.eval()
    args = (inputs,) if isinstance(inputs, Tensor) else inputs
    args, kwargs = ((), args) if isinstance(args, dict) else (args, {})
    with torch.no_grad():
        expected = compute(model, inputs)
        try:
            exported: Any = torch.export.export(model, args, kwargs).module()
            found = [t for t in tree_leaves(exported(*args, **kwargs)) if isinstance(t, Tensor)]
            way = "torch.export"
        except Exception:
            if kwargs:
                raise
            found = tree_leaves(torch.jit.trace(model, args, check_trace=False)(*args))
            way = "torch.jit"
    found = [t for t in found if t.is_floating_point()]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    return way


def check_torch_pruning(model: nn.Module, inputs: Any) -> None:
    pruning = import_module("torch_pruning")
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    last = linear[-1:] or [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1:]
    before = sum(p.numel() for p in model.parameters())
    pruning.pruner.BasePruner(
        model.eval(),
        inputs,
        importance=pruning.importance.RandomImportance(),
        pruning_ratio=0.4,
        ignored_layers=last,
    ).step()
    call_network(model, inputs)
    assert sum(p.numel() for p in model.parameters()) < before, "removes nothing"


def make_row(word: str) -> dict[str, Any]:
    """Check a network; return its row of the table, without Torch-Pruning."""
    torch.manual_seed(0)
    model, inputs = NETWORKS[word]()
    start = time.process_time()
    arch = nsopt.trace(model, inputs, training=not is_detector(word))
    row: dict[str, Any] = {"trace_s": round(time.process_time() - start, 1)}
    row |= {"widths": len(arch.base_widths), "share": round(share_that_changes(arch), 2)}
    half = [range((width + 1) // 2) for width in arch.base_widths]
    randomise(model)
    row["exact"] = outcome(lambda: check_exact(arch, model, inputs))
    torch.manual_seed(0)
    smaller = arch.prune(NETWORKS[word]()[0], half)
    row["exports"] = outcome(lambda: check_export(smaller, inputs))
    row["trains"] = outcome(lambda: check_training(word, smaller, inputs))
    return row


def run_apart(word: str) -> dict[str, Any]:
    """Return the row of a network, made in a copy of this process."""
    apart = multiprocessing.get_context("fork")
    receiver, sender = apart.Pipe(duplex=False)

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
        try:
            sender.send(make_row(word))
        except Exception as error:
            sender.send({"exact": f"{type(error).__name__}: {error}"[:100]})
        found = outcome(lambda: check_torch_pruning(*NETWORKS[word]()))
        sender.send({"torch_pruning": found})

    process = apart.Process(target=run)
    process.start()
    sender.close()
    row: dict[str, Any] = {}
    try:
        for limit, column in zip(_LIMITS_S, ("exact", "torch_pruning"), strict=True):
            if not receiver.poll(limit):
                return row | {column: f"no end in {limit} s"}
            row |= receiver.recv()
    except EOFError:
        return row | {column: "the process died"}
    finally:
        process.kill()
        process.join()
    return row


def read_table() -> dict[str, dict[str, str]]:
    """Return the rows of the table, by network."""
    with TABLE.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def format_table(rows: dict[str, dict[str, str]]) -> str:
    """Return the table of the page docs/packages.md."""
    lines = ["| package | network | share that can go | exact | trains | exports | Torch-Pruning |"]
    lines.append("|---|---|---|---|---|---|---|")
    for word, row in rows.items():
        package, _, name = word.partition(":")
        names = [package, f"`{name}`", f"{float(row['share']):.2f}"]
        checks = (row[each] for each in ("exact", "trains", "exports", "torch_pruning"))
        lines.append(f"| {' | '.join(names + list(map(shorten, checks)))} |")
    return "\n".join(lines)


def shorten(found: str) -> str:
    """Return `yes`, how a network was exported, or `no`."""
    return {"ok": "yes", "torch.export": "yes", "torch.jit": "TorchScript"}.get(found, "no")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="by default all without a row")
    parser.add_argument("--page", action="store_true", help="only print the table of the page")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of other libraries
    torch.set_num_threads(1)
    rows: dict[str, Any] = read_table() if TABLE.exists() else {}
    if options.page:
        print(format_table(rows))
        return
    for word in options.networks or [word for word in NETWORKS if word not in rows]:
        rows[word] = {"network": word, **run_apart(word)}
        print("  ".join(f"{k} {v}" for k, v in rows[word].items()), flush=True)
        ordered = sorted(rows.values(), key=lambda row: list(NETWORKS).index(row["network"]))
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(ordered)


if __name__ == "__main__":
    main()
