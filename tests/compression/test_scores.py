"""What scores say of widths."""

import pytest

from nsopt.compression.scores import judge_scores


@pytest.mark.parametrize(
    ("best", "uniform", "images", "is_certain"),
    [
        (60.7, 48.0, 1000, True),
        (70.7, 69.1, 1000, False),
        (70.7, 69.1, 10_000, True),
        (50.0, 50.0, 1000, False),
        (100.0, 99.0, 1000, True),
    ],
)
def test_scores_within_the_error_of_the_images_do_not_decide(
    best: float, uniform: float, images: int, is_certain: bool
) -> None:
    verdict = judge_scores(best, uniform, images=images)
    assert f"score {best} % before fine-tuning, uniform ones {uniform} %" in verdict
    doubt = f": {images:,} validation images cannot tell them apart, so fine-tuning decides"
    assert verdict.endswith(doubt) != is_certain


def test_scores_are_not_compared_with_uniform_widths_that_do_not_exist() -> None:
    assert judge_scores(60.0, images=1000) == "the best widths score 60.0 % before fine-tuning"
