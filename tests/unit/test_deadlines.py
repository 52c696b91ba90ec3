"""The heap of deadlines: each record is due once, at the time that was set last."""

from strandline._journal.deadlines import STALE, Deadlines, Due


class Record:
    """A record with a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.due: Due | None = None

    def __repr__(self) -> str:
        return self.name


def watched(**times: float) -> tuple[Deadlines[Record], dict[str, Record]]:
    deadlines, records = Deadlines[Record](), {name: Record(name) for name in times}
    for name, at in times.items():
        deadlines.watch(records[name], at)
    return deadlines, records


def test_records_are_due_in_order_of_time_and_no_more_afterwards() -> None:
    deadlines, records = watched(c=3, a=1, b=2, d=4)
    assert (deadlines.next, len(deadlines)) == (1, 4)
    assert deadlines.pop(0.9) == []
    assert deadlines.pop(3) == [records[each] for each in "abc"]
    assert [records[each].due for each in "abc"] == [None] * 3
    assert (deadlines.next, len(deadlines)) == (4, 1)
    assert deadlines.pop(3) == []
    assert deadlines.pop(4) == [records["d"]]
    assert (deadlines.next, len(deadlines)) == (None, 0)


def test_of_equal_times_the_first_that_was_watched_comes_first() -> None:
    deadlines, records = watched(b=1, a=1)
    assert deadlines.pop(1) == [records["b"], records["a"]]


def test_a_time_that_is_set_again_replaces_the_older_one() -> None:
    deadlines, records = watched(a=1, b=2)
    deadlines.watch(records["a"], 3)
    assert records["a"].due is not None
    assert records["a"].due[0] == 3
    assert (deadlines.next, len(deadlines)) == (2, 2)
    assert deadlines.pop(2) == [records["b"]]
    deadlines.watch(records["a"], 2.5)
    assert deadlines.next == 2.5
    assert deadlines.pop(9) == [records["a"]]
    assert len(deadlines) == 0


def test_what_is_forgotten_is_never_due() -> None:
    deadlines, records = watched(a=1, b=2)
    deadlines.forget(records["a"])
    deadlines.forget(records["a"])
    assert (deadlines.next, len(deadlines)) == (2, 1)
    deadlines.forget(records["b"])
    assert (deadlines.pop(9), deadlines.next, len(deadlines)) == ([], None, 0)


def test_stale_entries_are_counted_however_they_leave_the_heap() -> None:
    deadlines, records = watched(a=1, b=2, c=3)
    deadlines.forget(records["a"])
    assert deadlines.pop(1) == []
    assert len(deadlines) == 2
    deadlines.forget(records["b"])
    assert (deadlines.next, len(deadlines)) == (3, 1)


def test_the_heap_is_rebuilt_when_most_of_it_is_stale() -> None:
    deadlines, (record, other) = Deadlines[Record](), (Record("a"), Record("b"))
    deadlines.watch(other, 5)
    for number in range(10 * STALE):
        deadlines.watch(record, 1000 - number)
        assert len(deadlines._heap) <= 2 + STALE + 2
        assert len(deadlines) == 2
    assert deadlines.pop(9999) == [other, record]
