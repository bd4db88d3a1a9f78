"""The embedded engine: a decoding loop on the policy object itself, so it always has the current weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from rollout.attention import attention_for_decoding, decodes_alike
from rollout.errors import RolloutError
from rollout.few_rows import few_rows_at_a_time
from rollout.sampling import draw, sampling_logprobs
from rollout.seeded import Seeded
from rollout.types import Completion, Sampling, require_room

DROPPED = 8  # rows: taking them out costs a copy of the cache, and every new batch size its own kernels


class TransformersEngine(Seeded):
    """Samples from a Transformers model (or a PeftModel with its active adapter) on its own device.

    What is returned depends on the seed, the prompts and the weights; `max_batch` moves it by float
    rounding only, because every row has its own random numbers. Log-probabilities are captured while
    sampling, in float32, under the distribution that was sampled (see `rollout.sampling`).
    """

    copies = False

    def __init__(
        self,
        model: Any,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        *,
        seed: int = 0,
        max_batch: int = 64,
        value_head: torch.nn.Linear | None = None,
    ) -> None:
        """Any of `stop_token_ids` ends an answer (chat models have several); `pad_token_id` may be one.

        value_head: of a critic on the model's own trunk, to be asked on the way: (d,) -> 1.
        """
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise RolloutError(
                "a policy with virtual tokens (prompt, p_tuning, prefix) would answer without them here: sample "
                "from it by PEFT's own generate, or tune by a method that adapts layers"
            )
        self.model = model
        self.stop_token_ids = tuple(stop_token_ids)
        self.pad_token_id = pad_token_id
        self.max_batch = max_batch
        self.value_head = value_head
        super().__init__(seed)
        self.lean: bool | None = None  # whether the model takes our own attention: seen at the first call

    @property
    def context(self) -> int:
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 30))

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], sampling: Sampling, rows: Sequence[int] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order; cut with "length" where the model's context ends.

        With `rows`, only those prompts are answered, in that order, and as they would be among all.
        Raises RolloutError for a prompt that is empty or leaves no room in the context.
        """
        require_room(prompt_ids, context := self.context)
        uniforms = torch.rand(
            len(prompt_ids), sampling.max_new_tokens, generator=self.generator, dtype=torch.float64
        )
        wanted = range(len(prompt_ids)) if rows is None else rows
        # neighbours of similar length need little padding
        order = sorted(wanted, key=lambda i: len(prompt_ids[i]))
        completions: dict[int, Completion] = {}
        model = self.model
        with evaluating(model), few_rows_at_a_time(model), read_by_head(model) as read, self._attention():
            for start in range(0, len(order), self.max_batch):
                batch = order[start : start + self.max_batch]
                prompts = [prompt_ids[i] for i in batch]
                done = self._decode(prompts, uniforms[batch], sampling, context, read)
                completions |= zip(batch, done, strict=True)
        return [completions[i] for i in wanted]

    def sync(self, policy: Any) -> int:
        """From now on sample from `policy`, the object itself: nothing is copied."""
        if policy is not self.model:
            self.model, self.lean = policy, None
        self.version += 1
        return self.version

    def close(self) -> None:
        """There is nothing but the policy."""

    def _attention(self) -> AbstractContextManager[None]:
        if self.lean is None:
            self.lean = decodes_alike(self.model)
        return attention_for_decoding(self.model) if self.lean else nullcontext()

    @torch.no_grad()
    def _decode(
        self,
        prompts: list[Sequence[int]],
        uniforms: torch.Tensor,
        sampling: Sampling,
        context: int,
        read: list[torch.Tensor],
    ) -> list[Completion]:
        """One batch, left-padded. Finished rows leave the batch, cache and all, `DROPPED` or more at a time.

        read: holds what the head read last (b, 1, d).
        """
        from rollout.cache import growing_cache
        from rollout.replay import ReplayedStep, replays

        device = self.model.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        limits = (context - lengths).clamp(max=sampling.max_new_tokens)
        inputs, real = pad_left(prompts, self.pad_token_id, device)
        positions = (real.cumsum(-1) - 1).clamp(min=0)
        stops = torch.tensor(self.stop_token_ids, device=device, dtype=torch.long)
        uniforms = uniforms.to(device)
        tokens = torch.zeros(len(prompts), sampling.max_new_tokens, dtype=torch.long, device=device)
        logprobs, values = torch.zeros(2, len(prompts), sampling.max_new_tokens, device=device)
        counts, stopped = torch.zeros_like(lengths), torch.zeros_like(lengths, dtype=torch.bool)
        rows = torch.arange(len(prompts), device=device)  # those still in the batch
        going = torch.ones_like(stopped)  # of `rows`: not finished
        cache = growing_cache(self.model.config)
        replayed: ReplayedStep | None = None

        for step in range(sampling.max_new_tokens):
            if replayed:
                logits = replayed(inputs, positions)
            else:
                logits = self.model(
                    input_ids=inputs,
                    **({"real": real} if self.lean else {"attention_mask": real.long()}),
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
                if self.lean and replays(self.model, cache):
                    replayed = ReplayedStep(self.model, cache, real, sampling.max_new_tokens - 1)
                    cache = replayed.cache
            distribution = sampling_logprobs(logits, sampling)
            greedy = sampling.temperature == 0
            token = distribution.argmax(-1) if greedy else draw(distribution, uniforms[rows, step])
            tokens[rows, step] = token
            logprobs[rows, step] = distribution.gather(-1, token[:, None])[:, 0]
            if self.value_head is not None:
                values[rows, step] = self.value_head(read[0][:, -1].to(self.value_head.weight.dtype))[:, 0]
            counts[rows] += going
            stopped[rows] |= going & torch.isin(token, stops)

            going = ~stopped[rows] & (counts[rows] < limits[rows])
            left = int(going.sum())
            if left == 0:
                break
            if len(rows) - left >= (max(DROPPED, left) if replayed else DROPPED):  # recording anew costs more
                kept = going.nonzero()[:, 0]
                rows, token, real, positions = rows[kept], token[kept], real[kept], positions[kept]
                going = going[kept]
                (replayed.keep if replayed else cache.batch_select_indices)(kept)
            inputs = token[:, None]
            real = torch.cat([real, real.new_ones(len(rows), 1)], dim=-1)
            positions = (positions[:, -1:] + 1).clamp(max=context - 1)  # of finished rows: anything legal

        if not bool(torch.isfinite(logprobs).all()):
            raise RolloutError(
                "the policy's logits are not finite: its weights are broken (did training diverge?)"
            )
        return [
            Completion(
                tuple(t[:n]),
                tuple(p[:n]),
                "stop" if s else "length",
                self.version,
                tuple(v[:n]) if self.value_head is not None else (),
            )
            for t, p, v, n, s in zip(
                *(x.tolist() for x in (tokens, logprobs, values, counts, stopped)), strict=True
            )
        ]


def pad_left(
    prompts: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and which are real (bool), both [b, longest]. The mask comes from the lengths, never from the ids."""
    longest = max(len(p) for p in prompts)
    ids = [[pad_token_id] * (longest - len(p)) + list(p) for p in prompts]
    real = [[False] * (longest - len(p)) + [True] * len(p) for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(real, device=device)


@contextmanager
def read_by_head(model: Any) -> Iterator[list[torch.Tensor]]:
    """Yields a list of what the head read last: hidden states (b, t, d).

    They are laid out in a line: of a slice, matmul would copy the head's weights for every row.
    """
    read: list[torch.Tensor] = []

    def before(_head: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        read[:] = [inputs[0].contiguous()]
        return (read[0], *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(before)
    try:
        yield read
    finally:
        hook.remove()


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
