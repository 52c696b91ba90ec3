"""What the trials' records mean, in the few words of a table, and whether it is what a session needs."""

from dataclasses import dataclass

from bench.peers.record import Failed, Figures, Five, Killed


@dataclass(frozen=True, slots=True)
class Verdict:
    """Words for the table, shorter ones for the picture."""

    words: str
    short: str
    good: bool


def of_five(five: Five) -> Verdict:
    """Judge five requests at once: all answered, one at a time, and history as they came."""
    total = five.answered + five.refused
    answers = f"{five.answered} answered" + (f", {five.refused} refused" if five.refused else "")
    overlap = "one at a time" if five.at_once <= 1 else f"{five.at_once} overlap"
    in_order = five.order == list(range(total))
    if not five.well_formed:
        history = "history malformed"
    elif in_order:
        history = "history in order"
    elif (len(five.order) == five.answered and five.order == sorted(five.order)) or len(five.order) < five.answered:
        history = f"history has {len(five.order)} of {total}"
    else:
        history = f"history in the order {', '.join(str(number + 1) for number in five.order)}"
    good = five.answered == total and five.at_once <= 1 and in_order and five.well_formed
    short = "5 in order" if good else f"{five.refused} refused" if five.refused else "out of order"
    return Verdict(f"{answers}; {overlap}; {history}", short, good)


def of_failed(failed: Failed) -> Verdict:
    """Judge the turn after a failed one: answered, by a model that knows of it."""
    if not failed.next_answered:
        why = "" if failed.well_formed else ": two user messages in a row"
        return Verdict(f"next turn refused by the model{why}", "refused", False)
    if not failed.told:
        return Verdict("next turn answered; the model never sees the failed one", "forgotten", False)
    return Verdict("next turn answered; the model sees the failed one", "continues", True)


def of_killed(killed: Killed) -> Verdict:
    """Judge a kill: everything accepted ran, and the conversation is there."""
    kept = "kept" if killed.earlier_kept else "lost"
    words = f"{killed.ran} of {killed.accepted} accepted ran; conversation {kept}"
    if not killed.next_answered:
        words += "; next turn refused"
    good = killed.accepted > 0 and killed.ran == killed.accepted and killed.earlier_kept and killed.next_answered
    return Verdict(words, f"{killed.ran} of {killed.accepted} ran", good)


def verdicts(figures: Figures) -> tuple[Verdict | None, Verdict | None, Verdict | None]:
    """Judge the three trials of a subject; None is one that it has not had."""
    five, failed, killed = figures.five, figures.failed, figures.killed
    return (
        None if five is None else of_five(five),
        None if failed is None else of_failed(failed),
        None if killed is None else of_killed(killed),
    )
