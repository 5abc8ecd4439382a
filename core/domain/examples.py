"""Prompts to begin with, in English and Chinese: short facts, Markdown, code, mathematics, a long text."""

EXAMPLES = {
    "Capital of France": "What is the capital of France?",
    "Explain the KV cache": "Explain in three short bullet points what the KV cache of a transformer does.",
    "Python code": "Write a Python function that returns the n-th Fibonacci number, with a docstring.",
    "A formula": "State the quadratic formula in LaTeX and explain each symbol.",
    "A long story": "Tell a story of about 300 words about a lighthouse keeper and a whale.",
    "自我介绍": "请用三句话介绍一下你自己。",
    "中国的首都": "中国的首都是哪里？它有什么著名的景点？",
}
