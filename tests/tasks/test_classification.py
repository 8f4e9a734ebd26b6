"""Images with labels as a task."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.compute.device import Compute
from nsopt.data.images import ImageData
from nsopt.tasks.agreement import class_divergence
from nsopt.tasks.classification import Classification, are_squashed, count_right, read_logits
from tests.networks import layers


def test_a_student_that_agrees_with_its_teacher_has_zero_loss(digits: ImageData) -> None:
    images = Classification(digits.split(0.1))
    logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
    teacher = logits.clone()
    assert images.distil(teacher, 1.0)(logits, labels) == pytest.approx(0.0, abs=1e-6)
    assert images.distil(teacher, 1.0)(teacher.flip(1), labels) > 0.1
    halfway = images.distil(teacher, 0.5)(logits, labels)
    torch.testing.assert_close(halfway, functional.cross_entropy(logits, labels) / 2)


def test_classes_that_the_teacher_excludes_do_not_count_in_distillation(digits: ImageData) -> None:
    images, labels = Classification(digits.split(0.1)), torch.randint(8, (6,))
    student, teacher, none = torch.randn(6, 8), torch.randn(6, 8), torch.full((6, 2), -torch.inf)
    alone = images.distil(teacher, 0.5)(student, labels)
    masked = torch.cat([student, none], 1).requires_grad_()
    loss = images.distil(torch.cat([teacher, none], 1), 0.5)(masked, labels)
    torch.testing.assert_close(loss, alone)
    loss.backward()
    assert masked.grad is not None
    assert masked.grad.isfinite().all()
    assert class_divergence(student, torch.full((6, 8), torch.nan)).isnan().all()


@layers(softmax=None)
@layers(weight=nn.Parameter(torch.linspace(-2, 2, 32 * 32 * 10).view(32 * 32, 10).sin() / 50))
def Ending(self: Any, images: Tensor) -> Any:
    """The same logits, as probabilities if `softmax` is given."""
    logits = images.flatten(1) @ self.weight
    return logits if self.softmax is None else self.softmax(logits)


def test_a_classifier_that_ends_in_softmax_has_the_loss_of_its_logits(digits: ImageData) -> None:
    """Another softmax would change the loss, its gradients, distillation and comparisons."""
    task, cpu = Classification(digits.split(0.1)), Compute(torch.device("cpu"), bf16=False)
    images, labels = digits.train.images[:16] / 255, digits.train.labels[:16]
    plain, ending, found = Ending(None), Ending(nn.Softmax(1)), []
    for network in (plain, ending):
        outputs, teacher = network(images), network(images.flip(0)).detach()
        loss = task.loss(outputs, labels)
        loss.backward()
        distilled = task.distil(teacher, 0.5)(outputs, labels)
        found.append([loss.detach(), network.weight.grad, distilled])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    distances = task.comparison(plain.eval(), cpu)(ending.eval()).distances
    torch.testing.assert_close(distances, torch.zeros(16), atol=1e-4, rtol=0)


def test_logits_that_are_nan_get_no_label_right() -> None:
    logits = torch.tensor([[2.0, 1.0], [torch.nan, 0.0], [0.0, -torch.inf]])
    assert count_right(logits, torch.zeros(3, dtype=torch.int64)) == 2


def test_only_probabilities_are_taken_for_probabilities() -> None:
    probabilities = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    logarithm = read_logits(probabilities)
    torch.testing.assert_close(logarithm.softmax(1), probabilities)
    assert logarithm.isfinite().all()
    for logits in (torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 0.6]]), probabilities * 2):
        assert torch.equal(read_logits(logits), logits)
    some = torch.tensor([[0.5, 0.5], [3.0, 1.0]])
    assert torch.equal(read_logits(some), some)


def test_outputs_of_sigmoid_are_neither_logits_nor_probabilities() -> None:
    logits = 4 * torch.randn(20, 10)
    assert are_squashed(logits.sigmoid())
    assert not any(map(are_squashed, (logits, logits.softmax(1), logits.relu(), logits.abs())))
