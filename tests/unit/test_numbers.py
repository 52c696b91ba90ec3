"""Numbers of a journal that several servers share: none is drawn twice, and they rise within a session."""

from strandline._journal.numbers import Clocked
from strandline._journal.postgres.shares import FREE_S, Seen, Shares, View, share

LEASE_S = 10.0


def test_numbers_of_one_partition_rise_although_the_clock_stands_still_or_goes_back() -> None:
    now = 1_000.0
    numbers = Clocked(lambda: now)
    drawn = [numbers.row(7) for _ in range(3)]
    now = 900.0
    drawn += [numbers.session(7), numbers.fence(7)]
    assert drawn == sorted(set(drawn))


def test_numbers_of_two_partitions_differ_although_both_servers_have_the_same_time() -> None:
    first, second = Clocked(lambda: 1_000.0), Clocked(lambda: 1_000.0)
    assert not {first.row(7) for _ in range(100)} & {second.row(8) for _ in range(100)}


def test_numbers_are_in_the_order_of_time_whatever_their_partition() -> None:
    now = 1_000.0
    numbers = Clocked(lambda: now)
    before = numbers.row(255)
    now += 0.000_002
    assert numbers.row(0) > before


def test_who_begins_after_another_owner_draws_above_it_even_with_a_clock_that_is_behind() -> None:
    ahead, behind = Clocked(lambda: 2_000.0), Clocked(lambda: 1_000.0)
    last = ahead.row(255)
    behind.begin(2, ahead.top)
    assert behind.row(0) > last


def test_the_number_of_the_next_run_is_drawn_only_when_it_is_accepted() -> None:
    numbers = Clocked(lambda: 1_000.0)
    assert numbers.next_run(3) == numbers.next_run(3)
    numbers.drew_run(first := numbers.next_run(3))
    assert numbers.next_run(3) > first
    assert first % 256 == 3


def test_numbers_fit_the_database_and_the_cursors_of_lists_for_fifty_years() -> None:
    number = Clocked(lambda: 3_300_000_000.0).row(255) + (1 << 40)
    assert number < 1 << 62
    assert len(str(number)) < 19


# -- shares -----------------------------------------------------------------------------------------------


def seen(server: int, *owned: int, left_s: float = 9.5, leaving: bool = False) -> Seen:
    return Seen(server, f"host:{server}", "", "0", leaving, left_s, frozenset(owned))


def view(*servers: Seen, free: frozenset[int] = frozenset()) -> View:
    return View({each.id: each for each in servers}, free, frozenset())


ALL = range(256)


def test_servers_share_all_partitions_about_evenly_and_agree() -> None:
    for servers in ([1, 2], [5, 9, 12], list(range(20, 28))):
        shares = [share(each, servers) for each in servers]
        assert sorted(p for each in shares for p in each) == list(ALL)
        assert all(0.6 < len(each) * len(servers) / 256 < 1.5 for each in shares)


def test_a_server_that_comes_takes_from_all_and_moves_nothing_between_others() -> None:
    before, after = {each: share(each, [1, 2]) for each in (1, 2)}, {each: share(each, [1, 2, 3]) for each in (1, 2, 3)}
    assert after[1] < before[1]
    assert after[2] < before[2]


def test_a_server_alone_adopts_everything_at_once() -> None:
    shares = Shares(1, LEASE_S)
    shares.seen(view(seen(1), free=frozenset(ALL)), 0.0)
    assert shares.to_adopt([], 0.0) == list(ALL)
    assert shares.to_cede(ALL) == []


def test_a_server_adopts_of_what_is_free_its_share_at_once_and_the_rest_if_it_stays_free() -> None:
    shares = Shares(1, LEASE_S)
    shares.seen(view(seen(1), seen(2), free=frozenset(ALL)), 0.0)
    mine = sorted(share(1, [1, 2]))
    assert shares.to_adopt([], 0.0) == mine
    rest = frozenset(ALL) - set(mine)
    shares.seen(view(seen(1, *mine), seen(2), free=rest), FREE_S / 2)
    assert shares.to_adopt(mine, FREE_S / 2) == []
    shares.seen(view(seen(1, *mine), seen(2), free=rest), FREE_S)
    assert shares.to_adopt(mine, FREE_S) == sorted(rest)


def test_a_server_cedes_what_another_one_should_have() -> None:
    shares = Shares(1, LEASE_S)
    shares.seen(view(seen(1, *ALL), seen(2)), 0.0)
    assert shares.to_cede(ALL) == sorted(share(2, [1, 2]))


def test_nothing_is_ceded_to_a_server_that_leaves_or_has_not_renewed_its_lease_lately() -> None:
    for other in (seen(2, leaving=True), seen(2, left_s=5.0), seen(2, left_s=-1.0)):
        shares = Shares(1, LEASE_S)
        shares.seen(view(seen(1, *ALL), other), 0.0)
        assert shares.to_cede(ALL) == []


def test_a_server_that_leaves_adopts_nothing() -> None:
    shares = Shares(1, LEASE_S)
    shares.seen(view(seen(1, leaving=True), seen(2), free=frozenset(ALL)), 0.0)
    assert shares.to_adopt([], 99.0) == []


def test_a_server_that_was_told_to_leave_adopts_what_stays_free_if_nobody_else_would() -> None:
    shares = Shares(1, LEASE_S)
    assert shares.to_adopt([], 0.0) == []
    shares.seen(view(seen(1, leaving=True), seen(2, leaving=True), free=frozenset(ALL)), 0.0)
    assert shares.to_adopt([], FREE_S / 2) == []
    assert shares.to_adopt([], FREE_S) == list(ALL)
    shares.seen(view(seen(1, *ALL, leaving=True), seen(3)), FREE_S)
    assert shares.to_cede(ALL) == list(ALL), "the next server that comes has everything"


def test_what_is_ours_in_the_database_and_was_never_read_is_adopted_again() -> None:
    """The commit that made it ours was answered by nobody."""
    shares = Shares(1, LEASE_S)
    shares.seen(view(seen(1, 3, 4), seen(2)), 0.0)
    assert shares.to_adopt([4], 0.0) == [3]


def test_a_server_lives_that_renews_its_lease_while_we_look() -> None:
    shares = Shares(1, LEASE_S)
    for left_s in (6.0, 5.0, 4.0):
        shares.seen(view(seen(1), seen(2, left_s=left_s)), 0.0)
        assert not shares.others_live
    shares.seen(view(seen(1), seen(2, left_s=9.9)), 0.0)
    assert shares.others_live
