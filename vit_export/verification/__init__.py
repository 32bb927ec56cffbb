"""Is this file still the reference's model: checks, figures, latency, and the verdict. Never imports a converter."""
