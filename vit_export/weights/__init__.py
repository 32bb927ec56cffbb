"""Weights people have: files and public homes of checkpoints, each mapped strictly to the canonical parameters."""
