"""What each of vLLM's worker processes loads on a CPU (`--worker-extension-cls`)."""

from rollout.amx import ask_for_amx

ask_for_amx()


class CPUWorker:
    """Adds nothing: importing it is what counts."""
