"""Tile registers of newer Intel CPUs, which vLLM's bfloat16 attention takes for granted."""

import torch


def ask_for_amx() -> None:
    """Linux gives a process the AMX registers only when it asks, and a process that does not dies of an illegal
    instruction. vLLM does not ask; it works only where something else in the process has."""
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
