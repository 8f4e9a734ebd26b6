"""Images with labels as a task."""

import pytest
import torch
from torch.nn import functional

from nsopt.data.images import ImageData
from nsopt.tasks.classification import Classification


def test_a_student_that_agrees_with_its_teacher_has_zero_loss(digits: ImageData) -> None:
    images = Classification(digits.split(0.1))
    logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
    teacher = logits.clone()
    assert images.distil(teacher, 1.0)(logits, labels) == pytest.approx(0.0, abs=1e-6)
    assert images.distil(teacher, 1.0)(teacher.flip(1), labels) > 0.1
    halfway = images.distil(teacher, 0.5)(logits, labels)
    torch.testing.assert_close(halfway, functional.cross_entropy(logits, labels) / 2)
