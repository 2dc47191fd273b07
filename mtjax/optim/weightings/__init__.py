"""Weightings: the update from the losses."""
