"""Trainers of lightning and of transformers fine-tune what nsopt makes: run by `-m networks`."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import nsopt
from nsopt.session.presets import get_preset, override
from nsopt.torchvision_import import import_torchvision
from tests.study.test_any_task import Pitch, make_task, right_pitches

pytestmark = pytest.mark.networks
PART = {"device": "cpu", "precision": "fp32"}
SETTINGS = override(
    get_preset("compress").settings,
    {
        "search": {"prune_every": 1, "filters_per_step": 8, **PART},
        "training": {"distillation": None, "least_steps": None, **PART},
    },
)


def compress(model: nn.Module, task: nsopt.Task, trainer: Any) -> nsopt.Compression:
    asked: dict[str, Any] = {"epochs": 3, "settings": SETTINGS, "trainer": trainer}
    return nsopt.compress(model, task, ["params=60%"], **asked, progress=nsopt.Silent())


@pytest.mark.skipif(find_spec("lightning") is None, reason="lightning is not installed")
@pytest.mark.filterwarnings("default")
def test_lightning_trains_a_smaller_network() -> None:
    import_torchvision("ops")
    lightning: Any = import_module("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: list[Tensor], number: int) -> Tensor:
            sounds, pitches = batch
            return functional.cross_entropy(self.model(sounds), pitches)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    trained: list[int] = []

    def train(model: nn.Module, task: nsopt.Task, context: nsopt.TrainerContext) -> nn.Module:
        trainer = lightning.Trainer(
            max_epochs=context.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=context.folder,
        )
        trainer.fit(Module(model), DataLoader(task.train, batch_size=None))
        trained.append(trainer.global_step)
        return model

    torch.manual_seed(0)
    result = compress(Pitch().eval(), make_task(), train)
    small = result["params=60%"]
    assert set(trained) == {3 * 8}, "three epochs of eight batches"
    assert small.score == right_pitches(small.model) > result.dense.score


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("default")
def test_the_trainer_of_transformers_trains_a_smaller_bert() -> None:
    import_torchvision("ops")
    transformers: Any = import_module("transformers")

    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=2,
    )
    torch.manual_seed(0)
    words = torch.randint(5, 50, (64, 12))
    labels = (words[:, 0] > 27).long()

    def make_batches() -> Iterator[dict[str, Tensor]]:
        for part, own in zip(words.split(16), labels.split(16), strict=True):
            yield {"input_ids": part, "attention_mask": torch.ones_like(part), "labels": own}

    @torch.no_grad()
    def right(model: nn.Module) -> float:
        outputs = model(input_ids=words, attention_mask=torch.ones_like(words))
        return 100 * float((outputs.logits.argmax(1) == labels).float().mean())

    def train(model: nn.Module, task: nsopt.Task, context: nsopt.TrainerContext) -> nn.Module:
        options = transformers.TrainingArguments(
            output_dir=str(context.folder),
            num_train_epochs=context.epochs,
            per_device_train_batch_size=16,
            learning_rate=0.01,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        examples = [
            {"input_ids": own, "attention_mask": torch.ones_like(own), "labels": label}
            for own, label in zip(words, labels, strict=True)
        ]
        transformers.Trainer(model=model, args=options, train_dataset=examples).train()
        return model

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs["logits"], targets)

    model = transformers.BertForSequenceClassification(config).eval()
    task = nsopt.Task(list(make_batches()), loss, right, score_name="right (%)")
    result = compress(model, task, train)
    small = result["params=60%"]
    assert small.cost["params"] <= 0.6 * result.dense.cost["params"]
    assert small.score > max(result.dense.score, 60)
