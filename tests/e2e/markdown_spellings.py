"""Spellings that could make a browser fetch something of another server, and what they may stand in."""

FOREIGN = "leak.invalid"
URL = f"http://{FOREIGN}/NUMBER.png"
FETCHES = [
    "![x](URL)", "![x](<URL>)", '![x](URL "t")', "![](URL)", "![x][r]\n\n[r]: URL", "![r]\n\n[r]: URL",
    "![x](//HOST/NUMBER.png)", r"\![x](URL)", r"\\![x](URL)", r"!\[x](URL)", "&#33;[x](URL)", "!&#91;x](URL)",
    "[![x](URL)](URL)", "<img src='URL'>", "<img src=URL onerror=alert(1)>", "<svg><image href='URL'/></svg>",
    "<video src='URL' autoplay></video>", "<iframe src='URL'></iframe>", "<object data='URL'></object>",
    "<link rel=stylesheet href='URL'>", "<style>@import 'URL'</style>", "<input type=image src='URL'>",
    "<p style='background:url(URL)'>x</p>", ":color[x]{foreground=\"url(URL)\"}", ":img[x]{src=\"URL\"}",
    "::img{src=\"URL\"}", "$\\includegraphics{URL}$", "$\\htmlStyle{background:url(URL)}{x}$",
    "```mermaid\nflowchart TD\n  A@{ img: \"URL\", label: \"x\" }\n```",
    "```mermaid\nflowchart TD\n  A[\"<img src='URL'/>\"]\n```",
]  # fmt: skip
AROUND = [
    "X", "`` X `", "\\`` X``", "\\` X`", "` X \\`", "  `q\nX`", "````x X ```", "```` X\n```\nX", "~~~ X\nX",
    "> X", "- > X", "1. a\n\n   X", "    a\n\nX", "| a |\n|---|\n| X |", "# X", "**X**", "*a ~~X~~*",
    "[X](#)", "$a X b$", "\\(a X\\)", "\\[\nX\n\\]", "$$\nX", "<!-- X -->", "<div>\nX\n</div>", ":red[X]",
    ":::tip\nX\n:::", "a\u2028X", "a\rX", "\ufeffX", "\0X", "\u200bX", "x\\\nX", "[^1]: X", "- [ ] X",
]  # fmt: skip
