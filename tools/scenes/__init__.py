"""Synthetic scenes: drawn shapes and short texts, with questions whose answers are known.

Data for training and for measuring small vision models. Everything follows from a seed; nothing here knows a
model or an engine.
"""
