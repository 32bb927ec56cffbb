"""int8 that keeps the answer: exact rewrites, simulated integer arithmetic, and what is chosen by it for each layer."""
