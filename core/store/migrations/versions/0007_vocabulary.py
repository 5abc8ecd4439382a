"""Rename what was called pictures and sharing to images and isolation, in columns and in stored JSON."""

from alembic import op

revision = "0007"
down_revision = "0006"

RENAMED_KEYS = (
    ("pictures", "images"),
    ("pictures_per_request", "images_per_request"),
    ("vary_pictures", "vary_images"),
    ("picture_tokens", "image_tokens"),
    ("sharing", "isolation"),
)


def upgrade() -> None:
    for table in ("messages", "turns"):
        op.execute(f"ALTER TABLE {table} RENAME COLUMN pictures TO images")
    for table, column in (("bench_runs", "plan"), ("bench_lanes", "facts")):
        for old, new in RENAMED_KEYS:
            # Inside a JSON string a quote has a backslash before it, so only keys match.
            op.execute(f"""UPDATE {table} SET {column} = REPLACE({column}, '"{old}"\\:', '"{new}"\\:')""")
