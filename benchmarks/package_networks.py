"""The networks of `packages.py`: small ones of many packages, with random weights and inputs."""

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.models.imported import network_factory
from nsopt.torchvision_import import import_torchvision
from tests.tracing.operators import install_operators
from tests.tracing.test_networks import LARGE_TIMM as TIMM
from tests.tracing.test_networks import LARGE_TORCHVISION as TORCHVISION
from tests.tracing.test_networks_detectors import DETECTORS, make_detector

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
SOUND: dict[str, dict[str, Any]] = {
    "Conformer": {
        **{"input_dim": 32, "num_heads": 4, "ffn_dim": 64, "num_layers": 2},
        "depthwise_conv_kernel_size": 7,
    },
    "ConvTasNet": {
        **{"num_sources": 2, "enc_num_feats": 32, "msk_num_feats": 16, "msk_num_layers": 2},
        **{"msk_num_hidden_feats": 48, "msk_num_stacks": 2},
    },
    "HDemucs": {
        **{"sources": ["voice", "rest"], "audio_channels": 1, "channels": 8, "nfft": 1024},
        "depth": 5,
    },
}
GRAPHS = ("GraphSAGE", "GCN", "GAT", "GIN")
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


def make_sound(name: str) -> Made:
    import_torchvision("models")
    model = getattr(import_module("torchaudio.models"), name)(**SOUND[name])
    if name == "Conformer":
        return model, (torch.rand(2, 20, 32), torch.tensor([20, 15]))
    return model, torch.rand(2, 1, 400 if name == "ConvTasNet" else 16384)


def make_graph(name: str) -> Made:
    import_torchvision("models")
    kind = getattr(import_module("torch_geometric.nn.models"), name)
    edges = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]])
    return kind(16, 32, num_layers=3, out_channels=7), (torch.rand(6, 16), edges)


def make_resolution(name: str) -> Made:
    import_torchvision("models")
    kind = getattr(import_module(f"spandrel.architectures.{name}"), name)
    sizes = {"img_size": 32, "window_size": 8, "depths": [2, 2], "num_heads": [6, 6]}
    model = kind(upscale=2, embed_dim=60, mlp_ratio=2, upsampler="pixelshuffledirect", **sizes)
    return model, torch.rand(2, 3, 32, 32)


NETWORKS: dict[str, Callable[[], Made]] = {
    **{word: partial(make_named, word, size[0]) for word, size in (TORCHVISION | TIMM).items()},
    **{f"torchvision:{name}": partial(make_found, name) for name in DETECTORS},
    **{f"ultralytics:{name}": partial(make_yolo, name) for name in YOLO},
    **{f"transformers:{name}": partial(make_transformer, name) for name in TRANSFORMERS},
    **{f"diffusers:{name}": partial(make_diffuser, name) for name in DIFFUSERS},
    **{f"smp:{name}": partial(make_segmentation, name) for name in SEGMENTATION},
    **{f"torchaudio:{name}": partial(make_sound, name) for name in SOUND},
    **{f"torch_geometric:{name}": partial(make_graph, name) for name in GRAPHS},
    "spandrel:SwinIR": partial(make_resolution, "SwinIR"),
}
