"""Scores from a trained reward model, in its own chat template, by batches of similar length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reward.card import RewardCard
from reward.errors import RewardError
from reward.model import load
from reward.pairs import conversation_ids, length_batches
from reward.scorer import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int], None]


class LearnedScorer:
    """A reward model folder as a Scorer. Its raw scores are what plain Transformers returns as logits.

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
        if normalise:
            card = RewardCard.read(Path(folder))
            self.mean, self.std = card.score_mean, card.score_std

    @property
    def context(self) -> int:
        """The longest conversation that the model takes, in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 30))

    def score(self, conversations: Sequence[Conversation], progress: Progress | None = None) -> list[float]:
        """One score a conversation, in order. Raises RewardError on NaN or where one is over the context."""
        ids = [conversation_ids(self.tokenizer, c) for c in conversations]
        over = [len(i) for i in ids if len(i) > self.context]
        if over:
            raise RewardError(
                f"{len(over)} of {len(ids)} conversations exceed the reward model's context of {self.context} "
                f"tokens (the longest has {max(over)}): shorten prompts or answers"
            )
        return self.score_tokens(ids, progress)

    def score_tokens(self, ids: Sequence[Sequence[int]], progress: Progress | None = None) -> list[float]:
        """Scores of conversations in tokens of this model's own tokenizer and template."""
        raw = score_ids(
            self.model, ids, pad_token_id=self.pad_token_id, batch_tokens=self.batch_tokens, progress=progress
        )
        return [(score - self.mean) / self.std for score in raw]


@torch.no_grad()
def score_ids(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[float]:
    """Raw scores of token sequences, in order, in right-padded batches. Raises RewardError on NaN."""
    scores = [math.nan] * len(ids)
    for batch in length_batches([len(i) for i in ids], batch_tokens):
        width = len(ids[batch[0]])
        rows = torch.full((len(batch), width), pad_token_id)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, index in enumerate(batch):
            rows[row, : len(ids[index])] = torch.tensor(ids[index])
            mask[row, : len(ids[index])] = 1
        output = model(input_ids=rows.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
        for index, score in zip(batch, output.logits.float().squeeze(-1).tolist(), strict=True):
            scores[index] = score
        if progress:
            progress(len(batch))
    bad = sum(not math.isfinite(score) for score in scores)
    if bad:
        raise RewardError(
            f"{bad} of {len(scores)} scores are not finite: the reward model is broken or its dtype overflows"
        )
    return scores
