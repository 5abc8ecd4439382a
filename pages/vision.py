"""Vision: questions about images to several lanes, in conversation or as a quiz with known answers."""

from core.i18n import _
from core.ui.chat import page as chat_page
from core.ui.chat.quiz import show_quiz
from core.ui.chat.session import VISION
from core.ui.shared import shell
from core.ui.shared.components import show_tabs

shell.require()

talk, quiz = show_tabs(
    [f":material/forum: {_('Conversation')}", f":material/quiz: {_('Quiz')}"],
    key="vision_section",
)

if talk.open:
    chat_page.show(VISION, place=talk)

if quiz.open:
    with quiz:
        show_quiz(VISION)
