"""A storage that a short study wrote."""

from pathlib import Path

import pytest

from tests.conftest import call_nsopt
from tests.slim import slim_vgg11


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of the slim VGG11: two methods, one budget, one seed. Copy it first."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        slim_vgg11(patch)
        done = call_nsopt(
            *("study", "--methods=uniform,neuralscale", "--seeds=1", "--ratios=0.1"),
            *("--epochs=1", "--pretrain-epochs=0", "--prune-every=1", "--filters-per-step=100"),
            *("--batch-size=32", "--per-class=30", "--precision=fp32"),
            *("--device=cpu", f"--out={folder}"),
        )
    assert done.returncode == 0, done.stderr
    return folder
