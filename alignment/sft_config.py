"""What `align sft` is asked for. The defaults are for adapters on an instruction-tuned base."""

from __future__ import annotations

from pydantic import Field, model_validator

from alignment.config import Section
from alignment.models import ModelConfig
from alignment.scratch import ScratchConfig
from alignment.sft_mixture import check_weights
from alignment.tuning.config import TuningConfig


class TeacherConfig(ModelConfig):
    """A larger model of the same vocabulary, whose distribution over tokens is learnt."""

    beta: float = Field(
        0.5,
        ge=0,
        le=1,
        description="0: cover all that the teacher might say (forward KL); 1: say only what it would (reverse KL); "
        "between: both",
    )
    on_policy: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the microbatches whose answers the student samples itself, to be taught on its own "
        "mistakes; each costs a generation",
    )


class SFTConfig(Section):
    """`align sft`: a model learns to give the answers in `data`. The loss is on the answers only."""

    run: str = Field(description="run folder, e.g. runs/sft")
    seed: int = 0
    model: ModelConfig | None = Field(None, description="the model to start from; or give `scratch`")
    scratch: ScratchConfig | None = Field(None, description="start from a new small model of this shape")
    teacher: TeacherConfig | None = Field(
        None, description="learn its distribution at every token of the answers, not the answers alone"
    )
    data: str | dict[str, str] = Field(
        description="JSONL or Parquet with `prompt` and `completion`, or `messages`; or several, {name: path, ...}"
    )
    temperature: float = Field(
        1.0, gt=0, description="of several data sets: shares ~ size^(1/temperature); higher makes them alike"
    )
    weights: dict[str, float] | None = Field(
        None, description="of several data sets: their shares of the training outright, which sum to 1"
    )
    stages: list[str | list[str]] | None = Field(
        None,
        description="of several data sets: which come first, by name, e.g. [general, [math, code]]; those of an inner "
        "list are mixed. One schedule of the learning rate spans all",
    )
    order: str = Field(
        "random",
        description="random, or from easy to hard: length (of the tokens), loss (that of the model as it is), "
        "column:NAME (a number in each row)",
    )
    general: str | None = Field(
        None, description="rows like `data` on other things: their perplexity shows what the model forgets"
    )
    forgetting_alarm: float = Field(
        1.2, gt=1, description="say so once the perplexity of `general` is so many times what it was"
    )
    general_tasks: str | None = Field(
        None,
        description="questions to answer before, during and after: rows with `prompt`, `answer` and perhaps `choices`",
    )
    tasks_alarm: float = Field(
        0.05, ge=0, lt=1, description="say so once so large a share of `general_tasks` is not done any more"
    )
    held_out: int = Field(256, ge=1, description="examples kept for the held-out loss, at most a tenth")
    tuning: TuningConfig = Field(
        TuningConfig(), description="which weights are trained; a new model is tuned in full"
    )

    epochs: float = Field(1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimizer steps instead")
    batch_size: int = Field(32, ge=1, description="examples an optimizer step")
    microbatch: int = Field(8, ge=1, description="examples a forward; a matter of memory and speed only")
    learning_rate: float = Field(1e-4, gt=0, description="peak; LoRA likes 1e-4, full tuning 1e-5")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps in which the rate rises")
    max_length: int = Field(1024, ge=8, description="tokens; longer examples are left out and counted")
    packing: bool = Field(
        False,
        description="fill rows of max_length tokens with several examples, which do not see each other; batch_size "
        "and microbatch then count such rows",
    )
    neftune: float | None = Field(
        None, gt=0, description="noise on the embeddings (NEFTune; Jain et al. 2023), e.g. 5; null: none"
    )
    save_every: int = Field(500, ge=1, description="optimizer steps between checkpoints for --resume")
    patience: int | None = Field(
        None,
        ge=1,
        description="stop once the held-out loss has not fallen for so many checkpoints; the best is kept",
    )

    @model_validator(mode="after")
    def consistent(self) -> SFTConfig:
        if (self.model is None) == (self.scratch is None):
            raise ValueError("give exactly one of `model` (start from it) and `scratch` (a new small model)")
        if self.scratch and "tuning" not in self.model_fields_set:
            self.tuning = TuningConfig(method="full")
        if self.scratch and self.tuning.method != "full":
            raise ValueError("a new model has nothing to adapt: set tuning.method=full")
        if self.scratch and self.max_length > self.scratch.max_length:
            raise ValueError(
                f"max_length ({self.max_length}) exceeds the new model's scratch.max_length "
                f"({self.scratch.max_length})"
            )
        if isinstance(self.data, str) and (self.weights or self.temperature != 1):
            raise ValueError("weights and temperature mix several data sets: give data={name: path, ...}")
        if self.weights and self.temperature != 1:
            raise ValueError("give weights or a temperature, not both")
        if self.weights and not isinstance(self.data, str):
            check_weights(self.weights, list(self.data))
        if self.packing and self.sequential:
            raise ValueError(
                "packing puts long and short examples together: drop packing, or order and stages"
            )
        if self.packing and self.tuning.spec.prompt:
            raise ValueError(
                f"{self.tuning.method} puts a prompt before every row, which packing cannot: drop one"
            )
        if self.teacher and self.teacher.on_policy and (self.packing or self.tuning.spec.prompt):
            raise ValueError(
                "teacher.on_policy samples after each prompt alone: drop packing, and trained prompts"
            )
        self.check_order()
        if self.batch_size % self.microbatch:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of microbatch ({self.microbatch})"
            )
        return self

    def check_order(self) -> None:
        kind, _, column = self.order.partition(":")
        if kind not in ("random", "length", "loss", "column") or (kind == "column") != bool(column):
            raise ValueError(
                f"order must be random, length, loss or column:NAME, not {self.order!r}: the examples are sorted by it"
            )
        if kind == "loss" and self.scratch:
            raise ValueError("a new model finds everything equally hard: set order=length or column:NAME")
        if self.stages is None:
            return
        if isinstance(self.data, str):
            raise ValueError("stages put several data sets in order: give data={name: path, ...}")
        if self.weights or self.max_steps:
            raise ValueError("every stage runs for `epochs` over its own data: drop weights and max_steps")
        named = {name for stage in self.stages for name in ([stage] if isinstance(stage, str) else stage)}
        if odd := sorted(named ^ set(self.data)):
            raise ValueError(
                f"stages and data must name the same data sets; {odd[0]!r} is in one of them only"
            )
        if [] in self.stages:
            raise ValueError("a stage needs at least one data set")

    @property
    def sequential(self) -> bool:
        """Whether the examples come in an order of their own, not in the trainer's."""
        return self.order != "random" or self.stages is not None


def rounds(config: SFTConfig, examples: int) -> int:
    """Optimizer steps of `epochs` passes over so many examples."""
    return max(1, round(config.epochs * examples / config.batch_size))


def step_count(config: SFTConfig, examples: int) -> int:
    return config.max_steps or rounds(config, examples)
