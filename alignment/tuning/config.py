"""Which weights are trained, chosen by one key: `tuning.method`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignment.config import Section


class TuningConfig(Section):
    """LoRA on all linear layers by default, as most recipes have it."""

    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="lora: adapters; qlora: adapters on a 4-bit (NF4) base; full: every weight"
    )
    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: int = Field(32, ge=1, description="adapters are scaled by alpha / rank")
    layers: int | None = Field(
        None,
        ge=1,
        description="adapters on the last so many layers only; what lies below is then run once a rollout",
    )
    target_modules: str | list[str] = Field("all-linear", description="which layers get adapters")
