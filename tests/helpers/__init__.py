"""What tests share: toy models, other tools' files, faults, outliers, originals' outputs."""
