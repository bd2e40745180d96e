"""Schemas of the files in metrics/ that the report reads. A merge or an edit may have damaged them."""

from typing import Annotated

from pydantic import Field, model_validator

from finetune.artifacts import IMAGE_SETS, EvaluationMetrics, Number, Protocol, Section, StandardDeviation

Share = Annotated[Number, Field(ge=0, le=1)]


class Comparison(Protocol):
    features: int
    id: str
    n: int
    n_reference: int
    rank_deficient: bool


class Fid(EvaluationMetrics):
    gain: dict[str, Number]
    protocol: Comparison

    @model_validator(mode="after")
    def _consistent(self) -> "Fid":
        key = self.protocol.headline
        for name in (*IMAGE_SETS, "gain"):
            metrics = getattr(self, name)
            if not {key, f"{key}_sd"} <= metrics.keys():
                raise ValueError(f"{name} lacks {key} or {key}_sd, which protocol.headline names")
            if negative := [key for key, value in metrics.items() if key.endswith("_sd") and value < 0]:
                raise ValueError(f"{name}.{negative[0]} is negative")
        return self


class Pair(Section):
    base: Number
    tuned: Number


class Train(Section):
    caption_gain: Pair
    images: int
    precision: str
    steps: int
    validation_loss: Pair


class Attention(Section):
    auc: Number
    auc_sd: StandardDeviation
    pointing: Number


class Shares(Section):
    subject: Share
    outfit: Share
    pose: Share
    background: Share
    all: Share


class CaptionAccuracy(Section):
    images: int
    base: Shares | None = None
    tuned: Shares | None = None

    @model_validator(mode="after")
    def _complete(self) -> "CaptionAccuracy":
        if self.images and None in (self.base, self.tuned):
            raise ValueError("base or tuned is missing, but images is not 0")
        return self


class Grounding(Section):
    images: int
    timestep: int
    area: Number | None = None
    base: Attention | None = None
    tuned: Attention | None = None
    gain: Attention | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Grounding":
        if self.images and None in (self.area, self.base, self.tuned, self.gain):
            raise ValueError("area, base, tuned or gain is missing, but images is not 0")
        return self
