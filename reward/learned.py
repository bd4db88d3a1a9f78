"""Scores from a trained reward model, in its own chat template, by batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from reward.card import RewardCard
from reward.errors import RewardError
from reward.members import Progress, member_names, opinions_of, score_members
from reward.model import load
from reward.pairs import conversation_ids
from reward.scorer import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LearnedScorer:
    """A reward model folder as a Scorer. Its raw scores are what plain Transformers returns as logits.

    Of a folder with several members the score is their mean, once all have the first one's mean; of one with aspects
    their weighted sum.
    normalise: scores as (score - mean) / std of the model's card, measured on held-out answers.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        batch_tokens: int = 16384,
        normalise: bool = False,
    ) -> None:
        from transformers import AutoTokenizer

        on_gpu = torch.cuda.is_available()
        self.device = torch.device(device or ("cuda" if on_gpu else "cpu"))
        self.batch_tokens = batch_tokens
        self.model = load(
            str(folder), dtype=dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        ).to(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        if self.tokenizer.chat_template is None:
            raise RewardError(f"the tokenizer of {folder} has no chat template: save one beside the model")
        text_config = self.model.config.get_text_config()
        if text_config.pad_token_id is None or (Path(folder) / "adapter_config.json").exists():
            text_config.pad_token_id = self.tokenizer.pad_token_id
        self.pad_token_id: int = text_config.pad_token_id
        self.mean, self.std = 0.0, 1.0
        self.member_means: list[float] = []
        self.aspects: dict[str, float] = {}
        several = len(member_names(self.model)) > 1
        if normalise or several:
            card = RewardCard.read(Path(folder))
            self.aspects = card.aspects
            self.member_means = card.member_means if several else []
            if normalise:
                self.mean, self.std = card.score_mean, card.score_std

    @property
    def context(self) -> int:
        """The longest conversation that the model takes, in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 30))

    def score(self, conversations: Sequence[Conversation], progress: Progress | None = None) -> list[float]:
        """One score a conversation, in order. Raises RewardError on NaN or where one is over the context."""
        return self.score_tokens(self.tokens(conversations), progress)

    def opinions(self, conversations: Sequence[Conversation]) -> list[list[float]]:
        """For each conversation the scores of the model's members, whose mean is its score."""
        return self.token_opinions(self.tokens(conversations)).tolist()

    def tokens(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """The conversations in this model's own tokens and template. Raises RewardError for one over the context."""
        ids = [conversation_ids(self.tokenizer, c) for c in conversations]
        over = [len(i) for i in ids if len(i) > self.context]
        if over:
            raise RewardError(
                f"{len(over)} of {len(ids)} conversations exceed the reward model's context of {self.context} "
                f"tokens (the longest has {max(over)}): shorten prompts or answers"
            )
        return ids

    def score_tokens(self, ids: Sequence[Sequence[int]], progress: Progress | None = None) -> list[float]:
        """Scores of conversations in tokens of this model's own tokenizer and template."""
        return [float(score) for score in self.token_opinions(ids, progress).mean(1)]

    def token_opinions(
        self, ids: Sequence[Sequence[int]], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """(n, members)"""
        raw = score_members(
            self.model, ids, pad_token_id=self.pad_token_id, batch_tokens=self.batch_tokens, progress=progress
        )
        opinions = opinions_of(raw, self.member_means, list(self.aspects.values()))
        return (opinions - self.mean) / self.std


def score_ids(model: PreTrainedModel, ids: Sequence[Sequence[int]], **settings: Any) -> list[float]:
    """Raw scores of token sequences by a model's first member: see `score_members`, which takes the same settings."""
    return [float(score) for score in score_members(model, ids, **settings)[:, 0]]
