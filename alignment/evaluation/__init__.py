"""Comparing policies: what they answer, how good it is, and how far they moved from where they began."""
