"""What each of vLLM's worker processes loads on a CPU (`--worker-extension-cls`)."""

import torch

# Linux gives a process the AMX registers only when it asks. vLLM's bfloat16 attention uses them without asking, and
# dies of an illegal instruction where nothing else in the worker has asked before.
if torch.cpu._is_amx_tile_supported():
    torch.cpu._init_amx()


class CPUWorker:
    """Adds nothing: importing it is what counts."""
