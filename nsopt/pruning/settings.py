"""Settings of a search: pruning and architecture descent."""

from typing import Annotated, Literal

from pydantic import Field

from nsopt.settings import Fraction, Price, SgdSettings


class SearchSettings(SgdSettings):
    """Algorithms 1 and 4; the defaults are the protocol of the published CIFAR records.

    search_images: about so many training images are seen, the first ones of every class, again and
    again; None for all. price: what the importance of a filter is divided by when filters are
    ranked: nothing (`filters`, as published), or what its removal frees of a metric at the present
    widths; tau is then in that metric. pretrain_epochs: P, at learning rate `lr`; prune_every: Q,
    mini-batches between prune steps; filters_per_step: pruned across all layers together, a number
    or a fraction of what is left; keep_fraction: of all filters, at which pruning stops. With a
    price there are as many steps, to costs evenly spaced in their logarithm, down to the cost of
    the network whose widths are all `keep_fraction` of the first. While pruning the learning rate
    is `prune_lr`, divided by `prune_lr_divisor` every `prune_lr_epochs` epochs. iterations: of
    architecture descent; it ends before where no width changes by more than `convergence` of itself
    or, with `band`, where the proposal cannot be told from the network that was pruned. A proposed
    width below `small_width` is raised by that much before the next iteration. importance_decay:
    what the importance measured before a prune step counts after it, 0 (as published) for nothing.
    """

    search_images: int | None = Field(None, ge=1)
    price: Price = "filters"
    pretrain_epochs: int = Field(10, ge=0)
    prune_every: int = Field(50, ge=1)
    filters_per_step: Annotated[int, Field(ge=1)] | Fraction = 10
    keep_fraction: Fraction = 0.05
    iterations: int = Field(15, ge=1)
    convergence: Annotated[float, Field(ge=0)] | Literal["band"] | None = None
    small_width: int = Field(10, ge=0)
    batch_size: int = Field(256, ge=2)
    prune_lr: float = Field(0.01, gt=0)
    prune_lr_divisor: float = Field(1.5, ge=1)
    prune_lr_epochs: int = Field(10, ge=1)
    importance_decay: float = Field(0.0, ge=0, lt=1)
