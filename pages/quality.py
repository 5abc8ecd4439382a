"""Quality: what a faster engine or smaller weights cost in answers."""

from core.ui.quality import page
from core.ui.shared import shell

shell.require()
page.show()
