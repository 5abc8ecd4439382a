"""Chat: one prompt to several lanes, the answers side by side with their measured latency."""

from core.ui.chat import page as chat_page
from core.ui.chat.session import CHAT
from core.ui.shared import shell

shell.require()
chat_page.show(CHAT)
