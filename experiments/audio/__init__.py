"""Spoken prompts in five languages: what is said, and in which language."""
