"""Nothing but a number: answers may end by a tool call or a content filter, servers have more dialects."""

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Older programs learn that they can't read what is written now."""
