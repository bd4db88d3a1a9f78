"""An engine that samples from a copy of the policy, as vLLM does, where vLLM is not installed."""

from __future__ import annotations

import copy
from typing import Any

from rollout.transformers_engine import TransformersEngine


class CopyingEngine(TransformersEngine):
    """The embedded engine on a copy, taken at each sync that is not lost on the way."""

    copies = True
    lost = False

    def sync(self, policy: Any) -> int:
        if not self.lost:
            self.model = copy.deepcopy(policy)
        self.version += 1
        return self.version


def on_a_copy(trainer: Any) -> CopyingEngine:
    """Gives a trainer, which has not begun, such an engine in place of its own."""
    own = trainer.sampler.engine
    trainer.sampler.engine = CopyingEngine(
        copy.deepcopy(own.model), own.stop_token_ids, own.pad_token_id, seed=trainer.config.seed, max_batch=16
    )
    return trainer.sampler.engine
