"""Training of the demo vision model: a small LLaVA over the demo weights that knows drawn scenes."""
