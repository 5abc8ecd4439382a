"""The doctor: finds out which lanes can run on this machine, and what to do about those that can't.

`can_run` tells it cheaply from files and installed packages; `examine` looks at everything, imports of the
engines in child processes included.
"""

from core.doctor.examination import examine
from core.doctor.fitness import Diagnosis, Finding, LaneFitness, Status, can_run

__all__ = ["Diagnosis", "Finding", "LaneFitness", "Status", "can_run", "examine"]
