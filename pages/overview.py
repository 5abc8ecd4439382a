"""Overview: what LMDyno is, how the lanes are, and the scorecard of a model."""

from core.ui.overview import page as overview_page
from core.ui.shared import shell

shell.require()
overview_page.show()
