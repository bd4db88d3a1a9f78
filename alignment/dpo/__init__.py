"""Direct preference optimisation and its relatives (Rafailov et al. 2023), on labels that may be soft and weighted.

Shapes in this package: b = pairs of a microbatch, n = tokens of a microbatch end to end, d = hidden size,
v = vocabulary, h = heads, e = size of a head.
"""

from alignment.dpo.config import DPOConfig
from alignment.dpo.run import build_trainer, plan, prepare, train_dpo

__all__ = ["DPOConfig", "build_trainer", "plan", "prepare", "train_dpo"]
