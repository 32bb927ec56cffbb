"""Sweeps: every file of a grid of models, formats, precisions, int8 schemes and image sizes, measured side by side."""
