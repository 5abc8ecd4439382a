"""The pages that hold conversations: what each of them offers. All the rest is the same code for both."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.domain.specs import LaneSpec
from core.domain.turn_planning import MAX_LANES
from core.i18n import N_, Message
from core.models.vision.model import is_for_images, refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPage:
    """One such page; each has its own settings and its own open conversation in a browser session."""

    name: str
    """Begins the keys of its widgets and of what the session remembers for it."""
    file: str
    """The page's file, as Streamlit's navigation knows it."""
    invitation: Message
    """Stands in the empty prompt."""
    takes_images: bool

    def key(self, what: str) -> str:
        return f"{self.name}_{what}"

    def offered(self, lanes: Sequence[LaneSpec]) -> tuple[LaneSpec, ...]:
        """The lanes that can be picked."""
        return tuple(lane for lane in lanes if not self.takes_images or refusal(lane) is None)

    def picked_at_first(self, lanes: Sequence[LaneSpec]) -> list[str]:
        """Of the offered lanes those that a new session has picked; at least one, if there is any.

        Engines for images are left to the vision page; a server that sees answers text as well.
        """
        offered = self.offered(lanes)
        fitting = [
            lane
            for lane in offered
            if is_for_images(lane) == self.takes_images or (lane.endpoint and not self.takes_images)
        ]
        return [lane.name for lane in (fitting or offered)[:MAX_LANES]]


CHAT = ConversationPage(
    name="chat", file="pages/chat.py", invitation=N_("Ask all lanes (press / to write)"), takes_images=False
)
VISION = ConversationPage(
    name="vision",
    file="pages/vision.py",
    invitation=N_("Ask all lanes (press / to write); paste, drop, or attach images"),
    takes_images=True,
)
