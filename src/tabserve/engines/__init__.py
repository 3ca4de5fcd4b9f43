"""One file per way to compute a model."""
