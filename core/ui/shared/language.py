"""The language of a browser session: asked for in the address, remembered, or the browser's own.

Two tabs are two sessions and may differ. A choice is remembered in a cookie, which Streamlit can read but not
write, so a script of one line writes it in the browser.
"""

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


def settle() -> None:
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


def show_switch() -> None:
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
        script += f"document.cookie = '{_COOKIE}={language.tag}; path=/; max-age=31536000; samesite=lax';"
    st.html(f"<script>{script}</script>", unsafe_allow_javascript=True)


def _of_session() -> Language | None:
    """The session's language, for callbacks and fragments, which run without the router."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return None
    language: Language | None = st.session_state.get(_LANGUAGE)
    return language
