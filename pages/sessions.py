"""Sessions: prepare blind votes, invite people, and see what they say."""

from core.ui.sessions import host_page
from core.ui.shared import shell

shell.require()
host_page.show()
