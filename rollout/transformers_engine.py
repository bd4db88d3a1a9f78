"""The embedded engine: a decoding loop on the policy object itself, so it always has the current weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from rollout.errors import RolloutError
from rollout.sampling import draw, sampling_logprobs
from rollout.types import Completion, Sampling


class TransformersEngine:
    """Samples from a Transformers model (or a PeftModel with its active adapter) on its own device.

    What is returned depends on the seed, the prompts and the weights; `max_batch` moves it by float
    rounding only, because every row has its own random numbers. Log-probabilities are captured while
    sampling, in float32, under the distribution that was sampled (see `rollout.sampling`).
    """

    def __init__(
        self,
        model: Any,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        *,
        seed: int = 0,
        max_batch: int = 64,
    ) -> None:
        """Any of `stop_token_ids` ends an answer (chat models have several); `pad_token_id` may be one."""
        self.model = model
        self.stop_token_ids = tuple(stop_token_ids)
        self.pad_token_id = pad_token_id
        self.max_batch = max_batch
        self.version = 0
        self.generator = torch.Generator().manual_seed(seed)

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], sampling: Sampling, rows: Sequence[int] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order; cut with "length" where the model's context ends.

        With `rows`, only those prompts are answered, in that order, and as they would be among all.
        Raises RolloutError for a prompt that is empty or leaves no room in the context.
        """
        context = int(getattr(self.model.config, "max_position_embeddings", 1 << 30))
        for index, prompt in enumerate(prompt_ids):
            if not 0 < len(prompt) < context:
                raise RolloutError(
                    f"prompt {index} has {len(prompt)} tokens, the model's context {context}: "
                    "give it at least one token and leave room for the answer"
                )
        uniforms = torch.rand(
            len(prompt_ids), sampling.max_new_tokens, generator=self.generator, dtype=torch.float64
        )
        wanted = range(len(prompt_ids)) if rows is None else rows
        # neighbours of similar length need little padding
        order = sorted(wanted, key=lambda i: len(prompt_ids[i]))
        completions: dict[int, Completion] = {}
        with evaluating(self.model):
            for start in range(0, len(order), self.max_batch):
                batch = order[start : start + self.max_batch]
                prompts = [prompt_ids[i] for i in batch]
                done = self._decode(prompts, uniforms[batch], sampling, context)
                completions |= zip(batch, done, strict=True)
        return [completions[i] for i in wanted]

    def sync(self, policy: Any) -> int:
        """From now on sample from `policy`, the object itself: nothing is copied."""
        self.model = policy
        self.version += 1
        return self.version

    def state_dict(self) -> dict[str, Any]:
        return {"version": self.version, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.version = state["version"]
        self.generator.set_state(state["generator"])

    @torch.no_grad()
    def _decode(
        self, prompts: list[Sequence[int]], uniforms: torch.Tensor, sampling: Sampling, context: int
    ) -> list[Completion]:
        """One batch, left-padded. A row leaves the batch, cache and all, when it is finished."""
        from transformers import DynamicCache

        device = self.model.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        limits = (context - lengths).clamp(max=sampling.max_new_tokens)
        inputs, mask = pad_left(prompts, self.pad_token_id, device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        stops = torch.tensor(self.stop_token_ids, device=device, dtype=torch.long)
        uniforms = uniforms.to(device)
        tokens = torch.zeros(len(prompts), sampling.max_new_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(len(prompts), sampling.max_new_tokens, device=device)
        counts, stopped = torch.zeros_like(lengths), torch.zeros_like(lengths, dtype=torch.bool)
        rows = torch.arange(len(prompts), device=device)  # those still in the batch
        cache = DynamicCache(config=self.model.config)

        for step in range(sampling.max_new_tokens):
            logits = self.model(
                input_ids=inputs,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            distribution = sampling_logprobs(logits, sampling)
            greedy = sampling.temperature == 0
            token = distribution.argmax(-1) if greedy else draw(distribution, uniforms[rows, step])
            tokens[rows, step] = token
            logprobs[rows, step] = distribution.gather(-1, token[:, None])[:, 0]
            counts[rows] = step + 1
            stopped[rows] = torch.isin(token, stops)

            going = (~stopped[rows] & (step + 1 < limits[rows])).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) < len(rows):
                rows, token, mask, positions = rows[going], token[going], mask[going], positions[going]
                cache.batch_select_indices(going)
            inputs = token[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
            positions = positions[:, -1:] + 1

        if not bool(torch.isfinite(logprobs).all()):
            raise RolloutError(
                "the policy's logits are not finite: its weights are broken (did training diverge?)"
            )
        return [
            Completion(tuple(t[:n]), tuple(p[:n]), "stop" if s else "length", self.version)
            for t, p, n, s in zip(
                tokens.tolist(), logprobs.tolist(), counts.tolist(), stopped.tolist(), strict=True
            )
        ]


def pad_left(
    prompts: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both [b, longest]. The mask comes from the lengths, never from the ids."""
    longest = max(len(p) for p in prompts)
    ids = [[pad_token_id] * (longest - len(p)) + list(p) for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


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
