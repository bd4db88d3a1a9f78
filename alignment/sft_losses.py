"""How hard the base model finds each example before it is tuned: computed once, and kept for the next run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.console import progress_bar
from alignment.files import write_json
from alignment.models import ModelConfig, load_policy, weights_stamp

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignment.sft_data import Encoded


def kept_losses(
    model: ModelConfig, bits: int | None, examples: Sequence[Encoded], folder: Path, rows: int
) -> list[float]:
    """The loss of each example, in nats a token of the answer: from `folder`, or computed and left there.

    bits: of a packed base, None for a plain one; rows: examples a forward.
    """
    import torch

    file = folder / f"{key(model, bits, examples)}.json"
    if file.exists():
        found: list[float] = json.loads(file.read_text(encoding="utf-8"))
        return found
    policy = load_policy(model.path, model.dtype, four_bit=bits == 4, eight_bit=bits == 8)
    if bits is None and torch.cuda.is_available():  # a packed one is there already
        policy = policy.to("cuda")
    with progress_bar("base loss", len(examples)) as advance:
        found = losses(policy, examples, rows, advance)
    write_json(file, found)
    return found


def key(model: ModelConfig, bits: int | None, examples: Iterable[Encoded]) -> str:
    """A name for the losses by what they depend on."""
    digest = hashlib.sha256(json.dumps([*weights_stamp(model.path), model.dtype, bits]).encode())
    for example in examples:
        digest.update(json.dumps([example.input_ids, example.labels]).encode())
    return digest.hexdigest()[:32]


def losses(
    model: PreTrainedModel,
    examples: Sequence[Encoded],
    rows: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Of each example the mean negative log-likelihood of its labels under `model`, in nats; `rows` a forward."""
    import torch
    from torch.nn.functional import cross_entropy

    from alignment.sft_data import IGNORED

    device = next(model.parameters()).device
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    found = [0.0] * len(examples)
    for begin in range(0, len(examples), rows):
        batch = by_length[begin : begin + rows]
        width = len(examples[batch[-1]].input_ids)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        labels = torch.full((len(batch), width), IGNORED)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            length = len(examples[i].input_ids)
            ids[row, :length] = torch.tensor(examples[i].input_ids)
            labels[row, :length] = torch.tensor(examples[i].labels)
            mask[row, :length] = 1
        with torch.no_grad():
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        logits = logits[:, -width:][:, :-1].float()  # virtual tokens may stand before them
        targets = labels[:, 1:].to(device)
        nats = cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        means = nats.sum(1) / (targets != IGNORED).sum(1)
        for i, mean in zip(batch, means.tolist(), strict=True):
            found[i] = mean
        progress(len(batch))
    return found
