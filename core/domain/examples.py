"""Prompts to begin with, in English and Chinese: short facts, Markdown, code, mathematics, a long text."""

from core.i18n import N_, Text

EXAMPLES: dict[Text, Text] = {
    N_("Capital of France"): N_("What is the capital of France?"),
    N_("Explain the KV cache"): N_(
        "Explain in three short bullet points what the KV cache of a transformer does."
    ),
    N_("Python code"): N_(
        "Write a Python function that returns the n-th Fibonacci number, with a docstring."
    ),
    N_("A formula"): N_("State the quadratic formula in LaTeX and explain each symbol."),
    N_("A long story"): N_("Tell a story of about 300 words about a lighthouse keeper and a whale."),
    "自我介绍": "请用三句话介绍一下你自己。",
    "中国的首都": "中国的首都是哪里？它有什么著名的景点？",
}
