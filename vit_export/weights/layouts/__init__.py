"""Which tensors of which package make the canonical parameters."""
