"""LMDyno: LLM inference engines on a dynamometer."""

__version__ = "0.2.0"
