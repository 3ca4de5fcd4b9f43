"""Measurements, as ratios in one run. docs/performance.md says what came out."""
