"""Scripts in the browser: scroll, put the cursor into the prompt, keep a cookie.

A script runs when it comes to the page and when it changes, not at every rerun.
"""

import json

import streamlit as st

_FOCUS = """
if (!window.lmdynoPromptKey) {
  window.lmdynoPromptKey = true;
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (at.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(at.tagName)) return;
    const prompt = document.querySelector('[data-testid="stChatInputTextArea"]');
    if (!prompt) return;
    event.preventDefault();
    prompt.focus();
  });
}
"""
_SCROLL = """
(() => {
  const until = Date.now() + 3000;
  let left = false;
  for (const kind of ["wheel", "touchmove", "pointerdown", "keydown"])
    window.addEventListener(kind, () => { left = true; }, { once: true, passive: true });
  const go = () => {
    if (left) return;
    const part = document.querySelector(".st-key-" + KEY);
    if (part) {
      part.style.scrollMarginTop = "4.5rem";
      part.scrollIntoView({ block: "start" });
    }
    if (Date.now() < until) setTimeout(go, 150);
  };
  go();
})();
"""
_YEAR_S = 31_536_000


def focus_prompt_by_key() -> None:
    """Let `/` put the cursor into the prompt, wherever nothing is being typed."""
    _run(_FOCUS)


def scroll_to(key: str) -> None:
    """Bring the beginning of the container with that key to the top, while it grows into its place.

    Once for each key; anything that the visitor does ends it.
    """
    _run(_SCROLL.replace("KEY", json.dumps(key)))


def keep_cookie(name: str, value: str, *, for_s: int = _YEAR_S) -> None:
    """Remember a value in this browser, from where it comes with `st.context.cookies`.

    Streamlit itself sets no cookies. The value must be one that a cookie can hold.
    """
    _run(f"document.cookie = {json.dumps(f'{name}={value}; path=/; max-age={for_s}; samesite=lax')};")


def _run(script: str) -> None:
    st.html(f"<script>{script}</script>", unsafe_allow_javascript=True)
