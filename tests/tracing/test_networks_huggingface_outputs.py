"""Transformers of Hugging Face that return caches, or whose training mode depends on values."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nsopt.torchvision_import import import_torchvision
from nsopt.tracing.originals import copy_model
from tests.tracing.checks import choose_units, randomise, trace_unchanged, with_zeros

pytestmark = [pytest.mark.networks, pytest.mark.filterwarnings("ignore")]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.arange(20).reshape(2, 10)


def make_network(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return a small network with random weights, and its keyword arguments."""
    import_torchvision("models")
    hf = pytest.importorskip("transformers")
    both = {"input_ids": IDS, "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    parts = {**sizes, **heads, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    if name == "gpt2":
        own = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}
        return hf.GPT2LMHeadModel(hf.GPT2Config(**own)), both
    if name == "llama":
        own = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "vocab_size": 50}
        return hf.LlamaForCausalLM(hf.LlamaConfig(**own)), both
    if name == "whisper":
        config = hf.WhisperConfig(
            vocab_size=50, pad_token_id=0, num_mel_bins=8, max_source_positions=20, **parts
        )
        sound = torch.rand(2, 8, 40)
        return hf.WhisperModel(config), {"input_features": sound, "decoder_input_ids": IDS}
    if name == "wav2vec2":
        kernels: Any = {"conv_dim": (16, 16), "conv_kernel": (5, 3), "conv_stride": (3, 2)}
        own = {**SMALL, **kernels, "intermediate_size": 48, "num_feat_extract_layers": 2}
        places = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        config = hf.Wav2Vec2Config(apply_spec_augment=False, **own, **places)
        return hf.Wav2Vec2Model(config), {"input_values": torch.randn(2, 400)}
    backbone = hf.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12, 16, 24],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = hf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        num_queries=5,
        backbone_config=backbone,
        **parts,
    )
    return hf.DetrForObjectDetection(config), {"pixel_values": torch.rand(2, 3, 64, 64)}


@pytest.mark.parametrize("name", ["gpt2", "llama", "whisper", "wav2vec2", "detr"])
def test_a_transformer_comes_back_smaller(name: str) -> None:
    model, inputs = make_network(name)
    model.eval()
    arch = trace_unchanged(model, inputs)
    assert len(arch.base_widths) >= 2
    randomise(model)
    kept = choose_units(arch, seed=0, inexact=False)
    smaller = arch.prune(model, [units.tolist() for units in kept])
    doubles = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        expected, found = (
            next(iter(copy_model(network).double().eval()(**doubles).values()))
            for network in (with_zeros(arch, model, kept), smaller)
        )
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    half = arch.prune(model, [range((width + 1) // 2) for width in arch.base_widths])
    next(iter(half.train()(**inputs).values())).sum().backward()
    assert sum(p.numel() for p in half.parameters()) < sum(p.numel() for p in model.parameters())
