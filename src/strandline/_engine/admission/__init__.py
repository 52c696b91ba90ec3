"""Admission: what callers may do with runs and sessions. A request is accepted, attached to an earlier run, or refused.

`Admission` decides about requests, `Control` about everything after: cancel, move, pause, resume, delete.
`Subscribers` knows who waits for runs, and has those left alone cancelled where that is wanted. The journal has decided
before anybody here is told of anything.
"""

from strandline._engine.admission.admission import Admission
from strandline._engine.admission.control import Control
from strandline._engine.admission.refusals import Refusals
from strandline._engine.admission.subscribers import Subscribers
from strandline._engine.admission.ticket import Ticket

__all__ = ["Admission", "Control", "Refusals", "Subscribers", "Ticket"]
