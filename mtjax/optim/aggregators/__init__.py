"""Aggregators: the update from the Gramian or the stacked gradients."""
