"""Sets the clock of an interpreter that starts, if it is to be off (see `soak.clock`)."""

from soak.clock import set_clock

set_clock()
