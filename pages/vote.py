"""Vote: the page behind a session's voting link; it opens nothing else."""

from core.ui.sessions import vote_page
from core.ui.shared import shell

shell.require()
vote_page.show()
