"""Checkpoints from the hub and from addresses, cached."""
