"""Plugins for Hydra, which looks for them here only."""
