"""Policies that answer a lead's prompt while they wait: a model folder in this process, or an endpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock
from typing import Any, cast

from labeling.errors import LabelingError
from labeling.views import Message

LONGEST_ANSWER = 512  # tokens
WAIT_SECONDS = 120.0
Answerer = Callable[[list[Message], int], list[str]]


class FolderPolicy:
    """The policy in a model, adapter or run folder. It is loaded, torch and all, with the first prompt."""

    def __init__(self, path: str) -> None:
        """Raises AlignmentError if there is no policy at `path`."""
        from alignment.models import refuse_reward_model, resolve

        refuse_reward_model(resolve(path))
        self.name = path
        self._busy = Lock()  # one prompt at a time: the model is on one device
        self._answer: Answerer | None = None

    def __call__(self, prompt: list[Message], count: int) -> list[str]:
        with self._busy:
            self._answer = self._answer or load_answerer(self.name)
            return self._answer(prompt, count)


def load_answerer(path: str) -> Answerer:
    from alignment.models import load_policy, load_tokenizer
    from alignment.rollouts import device, embedded_engine, text_of
    from rollout.errors import RolloutError
    from rollout.types import Sampling

    tokenizer = load_tokenizer(path)
    model = load_policy(path).to(device())
    engine = embedded_engine(model, tokenizer, seed=int.from_bytes(os.urandom(4)), max_batch=8)

    def answer(prompt: list[Message], count: int) -> list[str]:
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        try:
            completions = engine.generate([ids] * count, Sampling(max_new_tokens=LONGEST_ANSWER))
        except RolloutError as error:
            raise LabelingError(str(error)) from None
        return [text_of(completion, tokenizer) for completion in completions]

    return answer


class EndpointPolicy:
    """A policy behind an OpenAI-compatible endpoint; its key is in OPENAI_API_KEY if it wants one."""

    def __init__(self, base_url: str, model: str) -> None:
        self.name = model
        self._base_url = base_url

    def __call__(self, prompt: list[Message], count: int) -> list[str]:
        import openai

        client = openai.OpenAI(
            base_url=self._base_url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none-needed",
            timeout=WAIT_SECONDS,
            max_retries=1,
        )
        try:
            with client:  # one request each: not every server knows `n`
                replies = [
                    client.chat.completions.create(
                        model=self.name,
                        messages=cast(Any, prompt),
                        temperature=1.0,
                        max_tokens=LONGEST_ANSWER,
                    )
                    for _ in range(count)
                ]
        except openai.OpenAIError as error:
            raise LabelingError(f"{self._base_url} gave no answer: {error}") from None
        return [reply.choices[0].message.content or "" for reply in replies]
