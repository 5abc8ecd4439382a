"""What goes on in a visitor's browser: its language, and scripts to scroll, type and remember.

The language of a session is asked for in the address, remembered, or the browser's own. Two tabs are two
sessions and may differ. A choice is remembered in a cookie, which Streamlit can read but not write, so a
script writes it. A script runs when it comes to the page and when it changes, not at every rerun.
"""

import json

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from core import i18n
from core.i18n import Language

_LANGUAGE = "language"
_ASKED = "language_asked"
"""The address's `lang` when it was last followed: a later choice on the page wins over it."""
_CHOSEN = "language_chosen"
"""Somebody chose the language, so that the browser remembers it."""
_TOLD = "language_told"
"""The language that the browser was told last, and whether it was chosen."""
_SWITCH = "language_switch"
_COOKIE = "lmdyno_language"
_PARAMETER = "lang"

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


def settle_language() -> None:
    """Find the session's language; called before anything is drawn."""
    i18n.find_language_with(_of_session)
    asked = i18n.match_language(st.query_params.get(_PARAMETER))
    if asked and asked != st.session_state.get(_ASKED):
        st.session_state[_ASKED] = asked
        _choose(asked)
    elif _LANGUAGE not in st.session_state:
        st.session_state[_LANGUAGE] = (
            i18n.match_language(st.context.cookies.get(_COOKIE))
            or i18n.match_language(st.context.locale)
            or Language.ENGLISH
        )
    i18n.choose_language(st.session_state[_LANGUAGE])


def show_language_switch() -> None:
    """The languages by their own names; also tells the browser about the choice."""
    st.session_state[_SWITCH] = st.session_state[_LANGUAGE]
    st.segmented_control(
        "Language / 语言",
        list(Language),
        format_func=lambda language: language.own_name,
        required=True,
        key=_SWITCH,
        on_change=_switch,
        label_visibility="collapsed",
    )
    _tell_browser(st.session_state[_LANGUAGE])


def _switch() -> None:
    language = Language(st.session_state[_SWITCH])
    _choose(language)
    if _PARAMETER in st.query_params:
        st.session_state[_ASKED] = language
        st.query_params[_PARAMETER] = language.tag


def _choose(language: Language) -> None:
    st.session_state[_LANGUAGE] = language
    st.session_state[_CHOSEN] = True


def _tell_browser(language: Language) -> None:
    """Name the language to screen readers and fonts; remember it for the next session if it was chosen."""
    chosen = st.session_state.get(_CHOSEN, False)
    if st.session_state.get(_TOLD, (Language.ENGLISH, False)) == (language, chosen):
        return
    st.session_state[_TOLD] = (language, chosen)
    script = f"document.documentElement.lang = '{language.tag}';"
    if chosen:
        script += _cookie_script(_COOKIE, language.tag, _YEAR_S)
    _run(script)


def _of_session() -> Language | None:
    """The session's language, for callbacks and fragments, which run without the router."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return None
    language: Language | None = st.session_state.get(_LANGUAGE)
    return language


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
    _run(_cookie_script(name, value, for_s))


def _cookie_script(name: str, value: str, for_s: int) -> str:
    return f"document.cookie = {json.dumps(f'{name}={value}; path=/; max-age={for_s}; samesite=lax')};"


def _run(script: str) -> None:
    st.html(f"<script>{script}</script>", unsafe_allow_javascript=True)
