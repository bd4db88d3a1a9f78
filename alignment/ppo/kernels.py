"""On a GPU: norms, rotations and gates in one kernel each (Liger; Hsu et al. 2024, arXiv 2410.10989).

As transformers writes them each is half a dozen passes over memory. Only families are fused whose layers are known to
compute the same either way (`tests/gpu`); the others run as they are.
"""

from __future__ import annotations

from typing import Any

from alignment.console import note

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def fuse_layers(models: list[Any]) -> None:
    """Run the layers of `models`, language models and classifiers on a GPU, through fused kernels where there are any.

    Rotations are replaced for the whole family, in this process: no model of it may be on the CPU.
    """
    known = [model for model in models if model.config.model_type in FAMILIES]
    if not known:
        return
    try:
        import liger_kernel  # noqa: F401
    except ImportError:
        note("PPO: updates are slower without fused kernels: pip install 'align[gpu]'")
        return
    from transformers.integrations.liger import apply_liger_kernel

    for model in known:
        apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
