"""Sharpness-aware minimisation: a second gradient at a perturbed point."""
