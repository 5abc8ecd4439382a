"""Vote: the page behind a session's voting link; it opens nothing else."""

from core.ui.sessions import vote_page
from core.ui.shared import shell

shell.require(guests=True)
vote_page.show()
