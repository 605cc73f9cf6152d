"""Sweeps: many runs of a training, each in a process of its own, and what they show together."""
