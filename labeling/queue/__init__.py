"""The queue: who gets which comparison, for how long, and what becomes of their answer.

settings.py says how it runs, claim.py hands out, submit.py takes in; slots.py keeps count of what is wanted.
"""
