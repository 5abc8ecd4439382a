"""Nothing but a number: more ways in which answers end, more dialects of servers, more phases of requests."""

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Older programs learn that they can't read what is written now."""
