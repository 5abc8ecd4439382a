"""Prompts to begin with, in English and Chinese: a fact, Markdown, code, mathematics, a longer text.

The demo model is sure of how it answers each of them (`benchmarks/prompt_margins.py`), so lanes of different
number formats and machines begin alike. That is not so for translations, so prompts are sent as they stand.
"""

from core.i18n import N_, Text

EXAMPLES: dict[Text, str] = {
    N_("Capital of Japan"): "What is the capital of Japan?",
    N_("Explain the KV cache"): (
        "Explain in three short bullet points what the KV cache of a transformer does."
    ),
    N_("Python code"): "Write a Python function that returns the n-th Fibonacci number, with a docstring.",
    N_("A formula"): "What is the Pythagorean theorem?",
    N_("A longer text"): "Explain what a neural network is.",
    "水的化学式": "水的化学式是什么？",
}
