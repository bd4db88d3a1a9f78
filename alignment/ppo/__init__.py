"""Proximal policy optimisation from a learned reward (Schulman et al. 2017; Ouyang et al. 2022).

Shapes in this package: b = rows of the batch, t = tokens of prompt and response together, r = response tokens,
n = response tokens of all rows in a line, d = hidden size, v = vocabulary. Masks are true where a token counts,
and always come from lengths, never from comparing ids with the pad token.
"""
