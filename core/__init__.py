"""LMDyno: LLM inference engines on a dynamometer."""

__version__ = "0.1.0"
