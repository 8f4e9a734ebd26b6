"""Validated, immutable settings. A mistake raises a one-line error. Settings never import torch."""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nsopt.errors import NsoptError, shorten

Fraction = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["auto", "fp32", "bf16"]
BATCH_SIZE = 100  # images per timed pass, as in the paper (section 4.2)
Price = Literal["filters", "params", "macs"]


class Timed(NamedTuple):
    """What milliseconds are of: the name of a runtime, and the examples of a pass."""

    runtime: str
    batch_size: int


def batch_unit(size: int) -> str:
    """Return the unit of latencies of batches of so many images."""
    return f"ms per batch of {size}"


class Settings(BaseModel):
    """Base of all settings. Raises NsoptError for an unknown name or a value out of range."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"][:1])
            inner = first.get("ctx", {}).get("error")
            if isinstance(inner, NsoptError):
                raise NsoptError(f"{name}.{inner}" if name else str(inner)) from None
            value, reason = shorten(first["input"]), first["msg"].lower()
            raise NsoptError(f"{name} = {value}: {reason}") from None

    def updated(self, **changes: Any) -> Self:
        """Return a validated copy with `changes`."""
        return type(self)(**{**dict(self), **changes})


class SgdSettings(Settings):
    """Settings of stochastic gradient descent, for searching and training.

    Attributes:
        batch_size: images per batch.
        lr: initial learning rate. Presets: smoke and tiny 0.02, quick 0.05, fast and paper 0.1,
            compress 0.003, of AdamW; in searches 0.05, paper 0.1.
        momentum: of the optimizer.
        weight_decay: of the optimizer.
        val_fraction: part of the training images that is held out for validation.
        seed: random seed of weights, batches and augmentation; of several trainings, that of the
            first one.
        device: as torch names it, or auto.
        precision: number format of matrix products; `auto` takes bf16 where it is fast.
        resized_crop: augment with random resized crops of at least this part of an image's area,
            such as 0.35. None shifts images by up to 4 pixels. Both mirror images at random.
    """

    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    val_fraction: Fraction = 0.1
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    device: str = "auto"
    precision: Precision = "auto"
    resized_crop: Fraction | None = None


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one `name: OURS now, THEIRS there` for each setting that differs, also nested."""
    changed = []
    for name in sorted(ours.keys() | theirs.keys()):
        our, their = ours.get(name), theirs.get(name)
        if isinstance(our, dict) and isinstance(their, dict):
            changed += differences(our, their, f"{prefix}{name}.")
        elif our != their:
            changed.append(f"{prefix}{name}: {our} now, {their} there")
    return changed
