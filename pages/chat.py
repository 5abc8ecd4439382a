"""Chat: one prompt to several lanes, the answers side by side with their measured latency."""

from core.ui import chat_page, shell
from core.ui.rooms import CHAT

shell.require()
chat_page.show(CHAT)
