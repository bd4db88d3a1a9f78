"""What in the metrics of a run says that it goes wrong, in words and with what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from alignment.config import Section

Row = Mapping[str, float]
WINDOW = 5  # iterations that a trend is read from


class AlarmConfig(Section):
    """From where on a run is said to go wrong, and what is done then."""

    action: Literal["warn", "halt", "rollback"] = Field(
        "warn",
        description="warn: say so; halt: stop at once, with a checkpoint; rollback: stop, and keep the policy of "
        "the last checkpoint before any alarm",
    )
    kl: float = Field(30.0, gt=0, description="nats an answer from the reference")
    truncated: float = Field(0.5, gt=0, description="share of answers that run into the length limit")
    growth: float = Field(
        1.5, gt=1, description="answers this many times as long as at first, for no more score"
    )
    entropy: float = Field(0.1, ge=0, description="share of the first entropy that is left")
    disagreement: float = Field(
        2.0, gt=1, description="the members of an ensemble disagree this many times as much as at first"
    )


def alarms(rows: Sequence[Row], limits: AlarmConfig) -> dict[str, str]:
    """Name -> what is wrong and what to do, for a run whose metrics are `rows` so far, the newest last."""
    if not rows:
        return {}
    first, last = rows[0], rows[-1]
    found: dict[str, str] = {}
    if last["kl"] > limits.kl:
        found["kl"] = (
            f"the policy is {last['kl']:.1f} nats an answer from the reference: raise kl.coef or lower learning_rate"
        )
    if last["truncated"] > limits.truncated:
        found["truncated"] = (
            f"{last['truncated']:.0%} of the answers run into the length limit: raise sampling.max_new_tokens, or "
            "truncation.penalty"
        )
    if last["entropy"] < limits.entropy * first["entropy"]:
        found["entropy"] = (
            f"entropy fell from {first['entropy']:.3g} to {last['entropy']:.3g} nats a token: the policy is "
            "collapsing; lower learning_rate or set entropy_coef=0.01"
        )
    if len(rows) >= 2 * WINDOW:
        found |= trends(rows, limits)
    return found


def over_optimised(probes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The alarm of a gold score that fell, by more than two standard errors, while the reward rose."""
    if not probes:
        return {}
    best, last = max(probes, key=lambda row: row["gold_mean"]), probes[-1]
    noise = 2 * last["gold_std"] / math.sqrt(last["answers"])
    if best["gold_mean"] - last["gold_mean"] <= noise or last["proxy_mean"] <= best["proxy_mean"]:
        return {}
    return {
        "over_optimised": f"the probe's gold score fell from {best['gold_mean']:.3g} (iteration {best['iteration']}) "
        f"to {last['gold_mean']:.3g} while the reward rose: stop here, or raise kl.coef; the best policy is in best/"
    }


def trends(rows: Sequence[Row], limits: AlarmConfig) -> dict[str, str]:
    """The alarms that compare the first iterations with the last ones."""
    found: dict[str, str] = {}
    early, late = rows[:WINDOW], rows[-WINDOW:]
    longer = mean(late, "response_length") / max(mean(early, "response_length"), 1e-9)
    gain = mean(late, "score_mean") - mean(early, "score_mean")
    if longer > limits.growth and gain < 0.1 * mean(early, "score_std"):
        found["length"] = (
            f"answers grew {longer:.1f} times as long for no more score: the reward model may like length; look at "
            "samples.jsonl"
        )
    if all("explained_variance" in row and row["explained_variance"] < 0 for row in late):
        found["critic"] = (
            f"the critic has been worse than a constant for {WINDOW} iterations: raise critic.learning_rate or "
            "critic.warmup"
        )
    if "disagreement" in early[0]:
        before, now = mean(early, "disagreement"), mean(late, "disagreement")
        if now > limits.disagreement * before:
            found["disagreement"] = (
                f"the ensemble's disagreement rose from {before:.2g} to {now:.2g}: answers have left what the reward "
                "models learned from; raise kl.coef, or stop here"
            )
    return found


def mean(rows: Sequence[Row], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)
