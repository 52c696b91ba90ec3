"""Applies every rule to a record of evidence."""

from judging.cancels import cancelled, cancelled_sessions, left_alone
from judging.collects import collected, collected_all, gathered_in_time
from judging.delays import in_order_of_time, not_early
from judging.durability import deleted, lost, one_outcome, one_run, refused, resumed
from judging.evidence import Evidence
from judging.histories import acceptable, grown, once
from judging.joins import ended_with_host, in_order_of_acceptance, joined
from judging.order import accepted_order, one_at_a_time, paused, priorities, ranked, started_once
from judging.policies import interrupted
from judging.questions import answered_once, refused_with_reason, waited
from judging.streams import assembled, fed, in_order
from judging.times import ended_in_time, had_its_time, waited_in_time
from judging.webhooks import delivered, of_sessions, one_event, true_event

RULES = (
    *(lost, refused, deleted, one_outcome, one_run, resumed),
    *(one_at_a_time, accepted_order, ranked, priorities, paused, started_once),
    *(cancelled, cancelled_sessions, left_alone, interrupted),
    *(answered_once, refused_with_reason, waited),
    *(had_its_time, ended_in_time, waited_in_time, acceptable, once, grown),
    *(ended_with_host, joined, in_order_of_acceptance),
    *(collected, gathered_in_time, collected_all),
    *(not_early, in_order_of_time),
    *(in_order, assembled, fed),
    *(delivered, one_event, true_event, of_sessions),
)


def judge(evidence: Evidence) -> list[str]:
    """Return which promises were broken, one sentence each."""
    return [fault for rule in RULES for fault in rule(evidence)]
