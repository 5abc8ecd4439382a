"""Recordings: what another machine measured, replayed."""

from core.ui.replay import page
from core.ui.shared import shell

shell.require()
page.show()
