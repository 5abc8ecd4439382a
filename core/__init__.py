"""LMDyno: LLM inference engines on a dynamometer."""
