"""What does this policy say? Engines that turn prompts (token ids) into completions with logprobs."""

from rollout.errors import RolloutError
from rollout.types import Completion, FinishReason, RolloutEngine, Sampling

__all__ = ["Completion", "FinishReason", "RolloutEngine", "RolloutError", "Sampling", "TransformersEngine"]


def __getattr__(name: str) -> object:
    """The engine brings torch along, so it is imported when it is asked for."""
    if name == "TransformersEngine":
        from rollout.transformers_engine import TransformersEngine

        return TransformersEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
