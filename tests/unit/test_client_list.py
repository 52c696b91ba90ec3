"""Where history continues with the message at the end of a client's list."""

from typing import Any

import pytest

from strandline._engine.requests import Continues, Differs, GoesBack, ListedMessages, place_in
from strandline._history import Listed
from strandline._journal.port import Conversation, ConversationTurn, Turned
from strandline._model import RunId

ON = Continues()


class Told:
    """A session; each turn is named by what it said, and `x/b` said b as run x; a capital came another way, and one in
    brackets is deleted. Turns of several runs are joined by `+`."""

    def __init__(self, *branches: str, coming: str = "", is_whole: bool = True, end: bool = True) -> None:
        """Take branches as their turns, each written from the beginning; the last one is the session's."""
        self.turns: list[tuple[str, int | None]] = []
        last: int | None = None
        for branch in branches:
            last = None
            for turn in branch.split():
                known = (turn, last)
                if known not in self.turns:
                    self.turns.append(known)
                last = self.turns.index(known)
        self.end = last if end else None
        self.coming = coming
        self.is_whole = is_whole

    def beside(self, listed: str) -> Conversation:
        texts = Listed(listed.split())

        def said(name: str) -> Turned:
            run, _, text = name.rpartition("/")
            bare = text.strip("()").lower()
            run_id = None if text.startswith("(") else RunId(run or bare)
            return Turned(run_id, texts.like(bare), by_list=text.islower() or text == "-", is_listed=text != "-")

        turns = [ConversationTurn(tuple(map(said, turn.split("+"))), before) for turn, before in self.turns]
        return Conversation(turns, self.end, [said(name) for name in self.coming.split()], self.is_whole)


def placed(told: Told, listed: str, *, is_cut: bool = False, how: Any = "follow") -> Continues | GoesBack | Differs:
    return place_in(told.beside(listed), ListedMessages(tuple(listed.split()), is_cut, how))


def back(after: str | None, *repeated: str) -> GoesBack:
    return GoesBack(None if after is None else RunId(after), tuple(map(RunId, repeated)))


@pytest.mark.parametrize(
    ("told", "listed", "place"),
    [
        pytest.param(Told(), "", ON, id="a new session"),
        pytest.param(Told(), "a b", ON, id="a copied chat in a new session"),
        pytest.param(Told("a b c"), "a b c", ON, id="all of it"),
        pytest.param(Told("a b c"), "b c", ON, id="trimmed"),
        pytest.param(Told("a b c"), "a b", back("b"), id="an edit of the last message"),
        pytest.param(Told("a b c"), "a", back("a"), id="an edit in the middle"),
        pytest.param(Told("a b c"), "", back(None), id="an edit of the first message"),
        pytest.param(Told("a b c d"), "b c", back("c"), id="an edit in a trimmed list"),
        pytest.param(Told("1/a 2/a 3/a"), "a a a", ON, id="the same message three times"),
        pytest.param(Told("1/a 2/a 3/a"), "a a", back("2"), id="an edit of the third of them"),
        pytest.param(Told("b 1/a 2/a 3/a"), "a a", ON, id="a trimmed list of them"),
        pytest.param(Told("a b", "a c"), "a c", ON, id="the version that is shown"),
        pytest.param(Told("a b d", "a c"), "a b d", back("d"), id="another version"),
        pytest.param(Told("a b d", "a c"), "a b", back("b"), id="an edit in another version"),
        pytest.param(Told("a 1/b", "a 2/b"), "a b", ON, id="the latest of two answers"),
        pytest.param(Told("a 1/b", "a 2/b c"), "a b", back("2"), id="the latest of two answers, for an edit"),
        pytest.param(Told("a 1/b", "a 2/b", "a c"), "a b", back("2"), id="the latest of two other answers"),
        pytest.param(Told("a 1/b c", "a 2/b", "a 1/b c d"), "a b", back("1"), id="the shown answer, edited"),
        pytest.param(Told("a X b"), "a b", ON, id="one in the middle came another way"),
        pytest.param(Told("a X Y"), "a", ON, id="those at the end came another way"),
        pytest.param(Told("a X b"), "a", back("a"), id="an edit takes back what came another way"),
        pytest.param(Told("X a"), "a", ON, id="the first came another way"),
        pytest.param(Told("A B C"), "a", back("a"), id="none came with a list"),
        pytest.param(Told("A B C"), "a b c", ON, id="none came with a list, and all are listed"),
        pytest.param(Told("a - b"), "a b", ON, id="an answer that is no text"),
        pytest.param(Told("a -"), "a", ON, id="an answer that is no text, at the end"),
        pytest.param(Told("a b"), "a x b", ON, id="one that left nothing in the middle"),
        pytest.param(Told("a b"), "a b x", ON, id="one that left nothing at the end"),
        pytest.param(Told("a b c"), "a y c", ON, id="one was changed and not sent, and the last is there"),
        pytest.param(Told("a b c"), "a y", back("a"), id="one was answered elsewhere"),
        pytest.param(Told("a b c"), "x y", back(None), id="another conversation"),
        pytest.param(Told("a b", "x"), "a b", back("b"), id="back to a conversation before"),
        pytest.param(Told("(a) (b) c"), "a b c", ON, id="deleted runs"),
        pytest.param(Told("(a) (b) c"), "c", ON, id="deleted runs, trimmed"),
        pytest.param(Told("(a) b c"), "a b", back("b"), id="an edit after deleted runs"),
        pytest.param(Told("a b+c d"), "a b c d", ON, id="a turn of two runs"),
        pytest.param(Told("a b+c d"), "a b c", back("b"), id="an edit after a turn of two runs"),
        pytest.param(Told("a b+c d"), "a b", back("a", "b"), id="an edit of what joined"),
        pytest.param(Told("b+c+d"), "b c", back(None, "b", "c"), id="an edit of what joined first"),
        pytest.param(Told("a b+C"), "a b", ON, id="what joined came another way"),
    ],
)
def test_a_list_says_where_history_continues(told: Told, listed: str, place: object) -> None:
    assert placed(told, listed) == place


@pytest.mark.parametrize(
    ("told", "listed", "place"),
    [
        pytest.param(Told("a b", coming="c"), "a b", ON, id="it has no answer yet"),
        pytest.param(Told("a b", coming="c d"), "a b c", ON, id="one of them is listed"),
        pytest.param(Told("a b", coming="c d"), "a b c d", ON, id="both are"),
        pytest.param(Told("a b", coming="c"), "a", back("a"), id="an edit of what has its answer"),
        pytest.param(Told(coming="a"), "", ON, id="the first has no answer yet"),
        pytest.param(Told(coming="a"), "x", ON, id="another list, and nothing to go back to"),
        pytest.param(Told("X", coming="a"), "a", ON, id="before it came another one"),
    ],
)
def test_what_has_no_answer_yet_may_be_listed_or_not(told: Told, listed: str, place: object) -> None:
    assert placed(told, listed) == place


def test_a_list_that_begins_with_an_answer_is_trimmed() -> None:
    told = Told("a b")
    assert placed(told, "", is_cut=True) == ON
    assert placed(Told("1/a 2/a"), "a", is_cut=True) == ON
    assert placed(Told("a b c"), "b", is_cut=True) == back("b")


def test_of_a_long_session_the_end_is_compared() -> None:
    told = Told("c d e", is_whole=False)
    assert placed(told, "a b c d e") == ON
    assert placed(told, "a b c d") == back("d")
    assert placed(told, "d e") == ON
    assert placed(told, "") == back(None)
    for listed in ("x y", "a b"):
        assert isinstance(placed(told, listed), Differs)
    assert isinstance(placed(Told("c+d e", is_whole=False), "b c"), Differs)


def test_no_history_continues_after_a_deleted_run() -> None:
    for told, listed in ((Told("(a) (b) c d"), "a b"), (Told("(a) b+c"), "a b"), (Told("a (b)+(c) d"), "a b")):
        differs = placed(told, listed)
        assert isinstance(differs, Differs)
        assert "run_retention" in differs.why


@pytest.mark.parametrize("listed", ["a b c", "b c", "a b c x"])
@pytest.mark.parametrize("how", ["follow", "refuse"])
def test_a_list_may_be_refused_for_a_difference(how: str, listed: str) -> None:
    place = placed(Told("a b c"), listed, how=how)
    if how == "follow" or listed != "a b c x":
        assert place == ON
    else:
        assert isinstance(place, Differs)


@pytest.mark.parametrize("listed", ["", "a", "a b", "x", "a y c"])
def test_what_would_go_back_is_refused_if_the_server_is_told_so(listed: str) -> None:
    assert isinstance(placed(Told("a b c"), listed, how="refuse"), Differs)
