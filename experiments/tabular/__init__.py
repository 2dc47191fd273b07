"""Tables: people, patients and genes, with several labels a row."""
