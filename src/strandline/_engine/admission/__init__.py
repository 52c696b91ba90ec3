"""Admission: what callers may do with runs and sessions; a request is accepted, attached to an earlier run, or refused.

`Admission` decides about requests, `Control` about everything after: cancel, move, pause, resume, delete. `Forks`
makes sessions from others. `Subscribers` counts the clients that wait for runs, and has runs without any cancelled
where their caller wants that. The journal always decides first.
"""

from strandline._engine.admission.admission import Admission
from strandline._engine.admission.control import Control
from strandline._engine.admission.forks import ForkRequest, Forks, fork_request
from strandline._engine.admission.refusals import Refusals
from strandline._engine.admission.subscribers import Subscribers
from strandline._engine.admission.ticket import Ticket

__all__ = ["Admission", "Control", "ForkRequest", "Forks", "Refusals", "Subscribers", "Ticket", "fork_request"]
