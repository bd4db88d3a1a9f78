"""`reward.json`, which lies beside the weights: how good the model is and how its scores are spread."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from reward.errors import RewardError


class RewardCard(BaseModel):
    """What the users of a reward model need to know of it."""

    score_mean: float = Field(description="mean raw score of answers, chosen and rejected; PPO subtracts it")
    score_std: float = Field(gt=0, description="their standard deviation; PPO divides by it")
    scored: int = Field(description="answers from which mean and std were measured")
    measured_on: str = Field(description="test; train where there were no test pairs; or calibration")
    member_means: list[float] = Field(
        default=[],
        description="of an ensemble, each member's own mean raw score; they are moved to the first one's",
    )
    aspects: dict[str, float] = Field(
        default={},
        description="what each member scores, and its weight in the score; empty where all score the same",
    )
    disagreement: float = Field(
        default=0.0, description="standard deviation between an ensemble's members, mean over the answers"
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="sigmoid(score difference / temperature) is calibrated on the test pairs",
    )
    test: dict[str, float | int | None] = Field(default={}, description="figures on held-out pairs")
    test_by_source: dict[str, dict[str, float | int | None]] = {}
    test_by_aspect: dict[str, dict[str, float | int | None]] = {}
    train_pairs: int
    left_out: dict[str, int] = Field(default={}, description="pairs left out, by reason")
    truncated: int = Field(default=0, description="pairs whose prompt lost its beginning")
    labels: dict[str, dict[str, float]] = Field(
        default={},
        description="what was learned of the labels: reliability by rater (1 is the average), ties",
    )
    max_length: int = Field(description="longest conversation trained on, in tokens")
    data: str | None = Field(default=None, description="content hash of the snapshot")

    def write(self, folder: Path) -> None:
        aside = folder / f".reward.json.{os.getpid()}.tmp"
        aside.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(aside, folder / "reward.json")

    @classmethod
    def read(cls, folder: Path) -> RewardCard:
        """Raises RewardError if there is no card or not a whole one."""
        try:
            return cls.model_validate_json((folder / "reward.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RewardError(
                f"{folder} has no reward.json to normalise scores with: train it with `align reward train`"
            ) from None
        except ValidationError as error:
            fault = error.errors()[0]
            raise RewardError(
                f"{folder}/reward.json: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            ) from None
