"""What every other folder stands on and what knows no Vision Transformer: errors, files, the machine, numbers."""
