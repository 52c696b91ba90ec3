"""A locked session: a run ends on time, and its session waits for the thread that nobody can stop."""

from tools.pictures.drawing import Drawing


def draw() -> str:
    """Return the picture."""
    picture = Drawing(
        250, "A run that is over its timeout ends; its session is locked while a thread of it still works"
    )
    left, deadline, ends, over, right = 118, 300, 384, 534, 620
    for x, words in ((deadline, "timeout"), (ends, "+ cancel_grace"), (over, "the thread ends")):
        picture.path(f"M{x} 44V196", arrow=False, kind="line dashed")
        picture.text(x, 34, words, "small")
    picture.text(104, 76, "first run", "strong", "end")
    picture.box(left, 58, ends - left, 28, "work", 5)
    picture.text((left + ends) / 2, 77, "executes", "on")
    picture.text(ends + 8, 77, "answered: timeout", "small", "start")
    picture.text(104, 116, "its thread", "", "end")
    picture.box(left + 60, 98, over - left - 60, 28, "bad", 5)
    picture.text((left + 60 + over) / 2, 117, "a tool that nobody can stop")
    picture.text(104, 156, "session", "", "end")
    picture.box(ends, 138, over - ends, 28, "ask", 5)
    picture.text((ends + over) / 2, 157, "locked")
    picture.text(104, 196, "next run", "strong", "end")
    picture.box(left + 20, 178, over - left - 20, 28, "wait", 5)
    picture.text((left + 20 + over) / 2, 197, "waits")
    picture.box(over, 178, right - over, 28, "work2", 5)
    picture.text((over + right) / 2, 197, "executes", "on")
    picture.text(320, 234, "after unlock_after at most, the session continues with a fresh agent", "small")
    return picture.svg()
