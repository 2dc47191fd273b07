"""Studies: claims that run, and what came out."""
