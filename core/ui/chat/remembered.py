"""A browser's settings for new conversations, kept in a cookie: a reload begins a new session."""

import base64
from dataclasses import dataclass, replace

import streamlit as st

from core.codec import decode, encode_plain
from core.domain.sampling import Sampling
from core.domain.turns import Mode
from core.errors import LMDynoError
from core.ui.chat.conversation_page import ConversationPage
from core.ui.shared.browser import keep_cookie

_MOST_CHARS = 800
"""Of a system prompt, which is left out if it is longer: a cookie holds 4 kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What the settings said last in this browser."""

    lanes: tuple[str, ...]
    mode: Mode
    baseline: str | None
    system_prompt: str
    sampling: Sampling


def recall(page: ConversationPage) -> Remembered | None:
    """What the browser remembers; None if that is nothing, or not valid."""
    cookie = st.context.cookies.get(_name(page))
    if not isinstance(cookie, str):
        return None
    try:
        return decode(Remembered, base64.urlsafe_b64decode(cookie))
    except (ValueError, LMDynoError):
        return None


def note_change(page: ConversationPage) -> None:
    """Callback of the settings' widgets: only what somebody chose is worth remembering."""
    st.session_state[page.key("settings_changed")] = True


def remember(page: ConversationPage, settings: Remembered) -> None:
    """Draw the script that keeps the settings, once any was changed."""
    if not st.session_state.get(page.key("settings_changed")):
        st.empty()
        return
    if len(settings.system_prompt) > _MOST_CHARS:
        settings = replace(settings, system_prompt="")
    keep_cookie(_name(page), base64.urlsafe_b64encode(encode_plain(settings)).decode())


def _name(page: ConversationPage) -> str:
    return f"lmdyno_{page.name}"
