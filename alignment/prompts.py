"""Prompts from a file, and the endless shuffled stream of them that a trainer draws from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from alignment.console import note
from alignment.errors import AlignmentError
from alignment.files import write_text

ROWS_AT_ONCE = 2048  # of a Parquet file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
T = TypeVar("T")


def load_prompts(path: str | Path) -> list[list[Message]]:
    """The `prompt` column of a JSONL or Parquet file: message lists, or texts (each one user message).

    Raises AlignmentError for a missing or empty file, a malformed line (numbered) or a row without a prompt.
    """
    rows = read_rows(Path(path))
    if not rows:
        raise AlignmentError(f"{path} is empty: it needs at least one row with a `prompt`")
    return [_prompt(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL or Parquet file, in order."""
    if not path.is_file():
        raise AlignmentError(f"no file {path}")
    return list(parquet_rows(path) if path.suffix == ".parquet" else json_rows(path))


def parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise AlignmentError(f"{file} is not a whole Parquet file: {error}") from None


def json_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise AlignmentError(
                    f"{file}, line {number}: not valid JSON ({error.msg}); mend or remove it"
                ) from None
            if not isinstance(row, dict):
                raise AlignmentError(
                    f"{file}, line {number}: a row must be an object, not {type(row).__name__}"
                )
            yield row


def _prompt(row: dict[str, Any], place: str) -> list[Message]:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        return [{"role": "user", "content": prompt}]
    if (
        isinstance(prompt, list)
        and prompt
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in prompt)
    ):
        return [{"role": m["role"], "content": m["content"]} for m in prompt]
    raise AlignmentError(f"{place}: `prompt` must be a text or a list of {{role, content}} messages")


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt, the row of its file it stands in (from 1), and its token ids."""

    row: int
    messages: list[Message]
    ids: list[int]


def encode_prompts(
    prompts: Sequence[list[Message]], tokenizer: PreTrainedTokenizerBase, room: int, rejects: Path
) -> list[EncodedPrompt]:
    """Prompts rendered with the chat template. Those longer than `room` tokens are written to `rejects`.

    Raises AlignmentError if none is left.
    """
    kept: list[EncodedPrompt] = []
    rejected: list[dict[str, Any]] = []
    for row, prompt in enumerate(prompts, 1):
        ids = list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
        if len(ids) <= room:
            kept.append(EncodedPrompt(row, prompt, ids))
        else:
            reason = f"{len(ids)} tokens, and the context leaves {room} beside the answer"
            rejected.append({"row": row, "reason": reason, "prompt": prompt})
    if rejected:
        write_text(rejects, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejected))
        note(f"{len(rejected)} of {len(prompts)} prompts are too long for the model, see {rejects}")
    if not kept:
        raise AlignmentError(
            f"no prompt fits: the model's context leaves {room} tokens beside sampling.max_new_tokens; "
            "shorten the prompts or lower it"
        )
    return kept


class PromptStream(Generic[T]):
    """Items in shuffled order, epoch after epoch; its whole state is one number."""

    def __init__(self, items: Sequence[T], seed: int) -> None:
        self.items = items
        self.seed = seed
        self.position = 0
        self._epoch, self._order = -1, [0]

    def take(self, n: int) -> list[T]:
        """The next `n` items; a new epoch, in a new order, begins where one ends."""
        import torch

        taken = []
        for position in range(self.position, self.position + n):
            epoch, index = divmod(position, len(self.items))
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(self.seed + epoch)
                self._epoch, self._order = (
                    epoch,
                    torch.randperm(len(self.items), generator=generator).tolist(),
                )
            taken.append(self.items[self._order[index]])
        self.position += n
        return taken
