"""How far to trust a judge: its judgements beside people's labels, and its calibration."""
