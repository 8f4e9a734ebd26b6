"""Settings of a search."""

from typing import Annotated

from pydantic import Field

from nsopt.settings import Fraction, Price, SgdSettings


class SearchSettings(SgdSettings):
    """Settings of Algorithms 1 and 4. The defaults are the paper's protocol for CIFAR.

    It has the settings of `SgdSettings`, too: batch size, learning rate, seed, device and others.

    Attributes:
        search_images: number of training images to use, the first ones of every class; None for
            all.
        price: divides the importance of a filter before ranking. `filters`, as published, divides
            by nothing. A metric divides by the cost that removing the filter saves at the current
            widths; tau is then in that metric.
        pretrain_epochs: P in the paper: epochs at learning rate `lr` before pruning.
        prune_every: Q in the paper: mini-batches between prune steps; None for as many as ten
            epochs of pruning have, but at least 1 and at most 10.
        filters_per_step: filters to prune in a step across all layers, a number or a fraction of
            those that are left. Of a number, a small network removes fewer, so that the record has
            the six steps that a law needs. With a price, a search takes as many steps, but to costs
            evenly spaced in their logarithm.
        keep_fraction: fraction of all filters at which pruning ends. With a price, pruning ends at
            the cost of a network with this fraction of every width.
        iterations: rounds of architecture descent: pruning, fitting and rescaling.
        convergence: end earlier if no width changes by more than this fraction.
        small_width: add this to every proposed width below it before the next iteration.
        prune_lr: learning rate while pruning.
        prune_lr_divisor: divides `prune_lr` every `prune_lr_epochs` epochs.
        prune_lr_epochs: see `prune_lr_divisor`.
        importance_decay: weight of the importance measured before the last prune step. 0, as
            published, forgets it.
    """

    search_images: int | None = Field(default=None, ge=1)
    price: Price = "filters"
    pretrain_epochs: int = Field(default=10, ge=0)
    prune_every: int | None = Field(default=50, ge=1)
    filters_per_step: Annotated[int, Field(ge=1)] | Fraction = 10
    keep_fraction: Fraction = 0.05
    iterations: int = Field(default=15, ge=1)
    convergence: Annotated[float, Field(ge=0)] | None = None
    small_width: int = Field(default=10, ge=0)
    batch_size: int = Field(default=256, ge=2)
    prune_lr: float = Field(default=0.01, gt=0)
    prune_lr_divisor: float = Field(default=1.5, ge=1)
    prune_lr_epochs: int = Field(default=10, ge=1)
    importance_decay: float = Field(default=0.0, ge=0, lt=1)
