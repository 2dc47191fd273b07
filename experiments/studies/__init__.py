"""Studies: claims that run. What came out lies in experiments/results; `tables` makes pages of it."""
