"""One file per web framework: they translate and decide nothing."""
