"""Where answers come from: prompts in their order, an engine, and the policy that is brought to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from alignment.checkpoints import State
from alignment.delivery import deliver
from alignment.ppo.ahead import Ahead
from alignment.ppo.processes import in_shares
from alignment.ppo.sharding import whole_weights
from alignment.prompts import EncodedPrompt, PromptStream
from rollout.delivery import Delivery
from rollout.types import Completion, RolloutEngine, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Answered = tuple[Sequence[EncodedPrompt], list[Completion]]


class Sampler:
    """Takes batches of prompts from a stream and has the policy answer them, at once or one step ahead."""

    def __init__(
        self,
        engine: RolloutEngine,
        prompts: Sequence[EncodedPrompt],
        policy: Callable[[], PreTrainedModel],
        sampling: Sampling,
        *,
        episodes: int,
        group: int,
        seed: int,
    ) -> None:
        """policy: gives the policy as it is to be delivered. A batch is `episodes` answers, `group` to each prompt."""
        self.engine = engine
        self.prompts = PromptStream(prompts, seed)
        self.policy = policy
        self.sampling = sampling
        self.take, self.group = episodes // group, group
        self.ahead = Ahead()
        self.delivered = False  # the engine has the policy as it is now
        self.delivery: Delivery | None = None  # the proof of it

    def deliver(self) -> None:
        """Bring the policy, if it has moved, to an engine that samples from a copy, and see that it arrived."""
        self.ahead.wait()
        if not self.delivered:
            self.delivery = deliver(self.engine, self.policy(), self.prompts.items[0].ids, self.delivery)
            self.delivered = True

    def batch(self) -> Answered:
        """The next prompts, each repeated for its group, and their answers by the policy as it was delivered."""
        prompts = self._next_prompts()
        return prompts, self.sample(prompts)

    def start_next(self) -> None:
        """The same in the background, for `ahead.wait` to give. The policy may move meanwhile."""
        prompts = self._next_prompts()
        ids = [prompt.ids for prompt in prompts]
        self.ahead.start(prompts, lambda: self.engine.generate(ids, self.sampling))

    def sample(self, prompts: Sequence[EncodedPrompt], sampling: Sampling | None = None) -> list[Completion]:
        """Answers to any prompts, shared among the processes."""
        ids = [prompt.ids for prompt in prompts]
        with whole_weights(self.policy()):
            return in_shares(
                lambda rows: self.engine.generate(ids, sampling or self.sampling, rows),
                torch.tensor([len(prompt) for prompt in ids]),
            )

    def _next_prompts(self) -> list[EncodedPrompt]:
        return [prompt for prompt in self.prompts.take(self.take) for _ in range(self.group)]

    @contextmanager
    def undone_by_failure(self) -> Iterator[None]:
        """A failure leaves the prompts, the engine's generator and what is ahead as it found them."""
        position, engine, batch = self.prompts.position, self.engine.state_dict(), self.ahead.batch
        try:
            yield
        except BaseException:
            self.ahead.put_back(batch)
            self.prompts.position = position
            self.engine.load_state_dict(engine | {"version": self.engine.version})
            raise

    def state_dict(self) -> State:
        ahead = self.ahead.state_dict()  # which waits: before that the engine's state is not settled
        return {
            "ahead": ahead,
            "prompt_position": self.prompts.position,
            "engine": self.engine.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        ahead, self.prompts.position = state.get("ahead"), state["prompt_position"]
        prompts: list[EncodedPrompt] = []
        if ahead is not None:
            self.prompts.position -= self.take
            prompts = self._next_prompts()
        self.ahead.load_state_dict(ahead, prompts)
        self.engine.load_state_dict(state["engine"])
        self.delivered, self.delivery = False, None

    def close(self) -> None:
        """End what is under way, and the engine."""
        self.ahead.close()
        self.engine.close()
