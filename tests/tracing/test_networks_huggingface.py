"""Small transformers of Hugging Face can be traced, resized and pruned: run by `-m networks`."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nsopt.models.trace import trace
from nsopt.torchvision_import import import_torchvision
from tests.tracing.checks import check_building, check_pruning, randomise

pytestmark = [
    pytest.mark.networks,
    pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed"),
]
WORDS, IMAGES = torch.randint(5, 90, (2, 12)), torch.randn(2, 3, 32, 32)
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
OF_TEXT = {**SIZES, "hidden_size": 64, "vocab_size": 100}
OF_IMAGES = {**SIZES, "hidden_size": 64, "image_size": 32, "patch_size": 8}


class Logits(nn.Module):
    """Returns the logits alone, and takes its inputs in this order."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def _make_clip(hub: Any) -> nn.Module:
    text = {**OF_TEXT, "hidden_size": 48, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    config = hub.CLIPConfig(text_config=text, vision_config=OF_IMAGES, projection_dim=40)
    return hub.CLIPModel(config)


def _make_whisper(hub: Any) -> nn.Module:
    sides = [f"{side}_{what}" for side in ("encoder", "decoder") for what in SIDE]
    sizes = dict(zip(sides, [2, 4, 96] * 2, strict=True))
    lengths = {"max_source_positions": 20, "max_target_positions": 20, "num_mel_bins": 16}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = hub.WhisperConfig(100, d_model=64, use_cache=False, **sizes, **lengths, **tokens)
    model = hub.WhisperForConditionalGeneration(config)
    return Logits(model, "input_features", "decoder_input_ids")


def _make_t5(hub: Any) -> nn.Module:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
    model = hub.T5ForConditionalGeneration(hub.T5Config(vocab_size=100, use_cache=False, **sizes))
    return Logits(model, "input_ids", "decoder_input_ids")


def _make_gpt2(hub: Any) -> nn.Module:
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32}
    return hub.GPT2LMHeadModel(hub.GPT2Config(vocab_size=100, use_cache=False, **sizes))


def _make_distilbert(hub: Any) -> nn.Module:
    sizes = {"dim": 64, "n_heads": 4, "n_layers": 2, "hidden_dim": 96}
    return hub.DistilBertForSequenceClassification(hub.DistilBertConfig(vocab_size=100, **sizes))


def _make_llama(hub: Any) -> nn.Module:
    config = hub.LlamaConfig(**OF_TEXT, num_key_value_heads=2, use_cache=False)
    return hub.LlamaForCausalLM(config)


SIDE = ("layers", "attention_heads", "ffn_dim")
NETWORKS: dict[str, tuple[Callable[[Any], nn.Module], Any, int]] = {  # how, inputs, widths
    "bert": (lambda h: h.BertForSequenceClassification(h.BertConfig(**OF_TEXT)), WORDS, 6),
    "roberta": (lambda h: h.RobertaForSequenceClassification(h.RobertaConfig(**OF_TEXT)), WORDS, 6),
    "distilbert": (_make_distilbert, WORDS, 6),
    "vit": (lambda h: h.ViTForImageClassification(h.ViTConfig(**OF_IMAGES)), IMAGES, 5),
    "deit": (lambda h: h.DeiTForImageClassification(h.DeiTConfig(**OF_IMAGES)), IMAGES, 5),
    "clip": (_make_clip, (WORDS, IMAGES), 8),
    "llama": (_make_llama, WORDS, 5),
    "gpt2": (_make_gpt2, WORDS, 5),
    "t5": (_make_t5, (WORDS, WORDS), 8),
    "whisper": (_make_whisper, (torch.randn(2, 16, 40), WORDS), 13),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_transformer_of_hugging_face_can_be_traced_resized_and_pruned(name: str) -> None:
    """Each block has a width for its heads, and another one for its hidden layer."""
    import_torchvision("ops")
    import transformers  # optional, and only after torchvision

    make, inputs, widths = NETWORKS[name]
    torch.manual_seed(0)
    model = make(transformers)
    arch = trace(model, inputs)
    assert (len(arch.base_widths), arch.refused) == (widths, {})
    check_building(arch, inputs)
    randomise(model)
    check_pruning(arch, model, inputs)
