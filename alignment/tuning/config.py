"""Which weights are trained, chosen by one key: `tuning.method`."""

from __future__ import annotations

import difflib

from pydantic import Field, field_validator, model_validator

from alignment.config import Section
from alignment.tuning.methods import METHODS, NOT_OFFERED, Method


class TuningConfig(Section):
    """LoRA on all linear layers by default, as most recipes have it."""

    method: str = Field(
        "lora", description="what is trained, e.g. lora, qlora, full; `align tune list` has all"
    )
    rank: int = Field(
        16,
        ge=1,
        description="size of what is added: a rank, a width, virtual tokens; the default is the method's",
    )
    alpha: int = Field(
        32, ge=1, description="LoRA and its kin are scaled by alpha / rank; default of the method"
    )
    layers: int | None = Field(
        None,
        ge=1,
        description="train the last so many layers only; what lies below is then run once a rollout",
    )
    target_modules: str | list[str] | None = Field(
        None, description="which layers are adapted, by name or all-linear; null: those of the method"
    )
    rate_decay: float = Field(
        1.0, gt=0, le=1, description="each layer learns at this share of the rate of the one above it"
    )

    @field_validator("method")
    @classmethod
    def known(cls, name: str) -> str:
        if name in METHODS:
            return name
        if name.replace("-", "").lower() in NOT_OFFERED:
            raise ValueError(f"{name} is not offered: {NOT_OFFERED[name.replace('-', '').lower()]}")
        near = difflib.get_close_matches(name.lower(), METHODS, n=1, cutoff=0.4)
        raise ValueError(
            f"no such tuning method{f'; did you mean {near[0]!r}?' if near else ''} (`align tune list` has all)"
        )

    @model_validator(mode="after")
    def sized_for_method(self) -> TuningConfig:
        if "rank" not in self.model_fields_set:
            self.rank = self.spec.rank
        if "alpha" not in self.model_fields_set:
            self.alpha = self.spec.alpha
        if self.spec.prompt and (self.layers or self.target_modules):
            raise ValueError(f"{self.method} leaves the layers as they are: drop layers and target_modules")
        if self.method == "unipelt" and self.target_modules:
            raise ValueError("unipelt has a place for each of its three parts: drop target_modules")
        if self.method == "hra" and self.rank % 2:
            raise ValueError("hra starts from pairs of reflections: give an even rank")
        return self

    @property
    def spec(self) -> Method:
        return METHODS[self.method]

    @property
    def bits(self) -> int | None:
        """Bits of the frozen base's weights, None where they stay as they are loaded."""
        return self.spec.bits
