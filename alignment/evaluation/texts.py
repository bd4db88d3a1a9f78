"""Held-out text that nobody asked for: how well a policy still predicts what people wrote.

Letters: w = windows of the texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.errors import AlignmentError
from alignment.evaluation.logprobs import token_logprobs
from alignment.evaluation.statistics import Array, Estimate, bootstrap_ratio
from alignment.prompts import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW = (
    2048  # tokens seen at once at the most; half of them are predicted, with at least the other half before
)
TOKENS_AT_ONCE = 8192  # in one forward pass


@dataclass(frozen=True)
class TextLoss:
    """nats (w,): -log p of the tokens that each window predicts. tokens (w,): how many those are."""

    nats: Array
    tokens: Array
    bytes: int  # of the texts in UTF-8

    def perplexity(self, seed: int = 0) -> Estimate:
        """exp of the mean over tokens, with its interval over windows. Comparable for one tokenizer only."""
        loss = bootstrap_ratio(self.nats, self.tokens, seed=seed)
        return Estimate(*map(math.exp, (loss.mean, loss.low, loss.high)))

    def bits_per_byte(self, seed: int = 0) -> Estimate:
        """The same loss in bits for each byte of text, which policies with other tokenizers share."""
        loss = bootstrap_ratio(self.nats, self.tokens, seed=seed)
        scale = float(self.tokens.sum()) / self.bytes / math.log(2)
        return Estimate(loss.mean * scale, loss.low * scale, loss.high * scale)


def load_texts(path: str) -> list[str]:
    """The column `text` of a JSONL or Parquet file, or any other file as one text.

    Raises AlignmentError for a missing or empty file, one that is not UTF-8, or a row without a text, by its number.
    """
    file = Path(path)
    if file.suffix in (".jsonl", ".parquet"):
        texts = []
        for number, row in enumerate(read_rows(file), 1):
            if not isinstance(row.get("text"), str) or not row["text"].strip():
                raise AlignmentError(f"{path}, row {number}: `text` must be a text that is not empty")
            texts.append(row["text"])
    else:
        try:
            texts = [file.read_text(encoding="utf-8")]
        except OSError as error:
            raise AlignmentError(f"text: cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise AlignmentError(
                f"text: {path} is not UTF-8 text; give a text, JSONL or Parquet file"
            ) from None
    if not any(text.strip() for text in texts):
        raise AlignmentError(f"text: {path} is empty")
    return texts


def text_loss(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], context: int) -> TextLoss:
    """The loss of `model` on every token of `texts`, in windows of at most `context` tokens.

    A text begins with the tokenizer's BOS, or its EOS where it has none, as in EleutherAI's evaluation harness, so
    that its first token is predicted too.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    cut = [
        window
        for text in texts
        for window in windows([start, *tokenizer(text, add_special_tokens=False)["input_ids"]], context)
    ]
    at_once = max(1, TOKENS_AT_ONCE // max(len(before) + len(predicted) for before, predicted in cut))
    logprobs = token_logprobs(model, cut, temperature=1.0, batch_size=at_once)
    return TextLoss(
        np.array([-row.sum() for row in logprobs]),
        np.array([float(len(row)) for row in logprobs]),
        sum(len(text.encode()) for text in texts),
    )


def windows(ids: Sequence[int], context: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """What is seen and what is then predicted: each token but the first once, after half a window or all there is."""
    context = min(context, WINDOW)
    stride = max(1, context // 2)
    at = 1
    while at < len(ids):
        end = min(len(ids), context if at == 1 else at + stride)
        yield ids[max(0, end - context) : at], ids[at:end]
        at = end
