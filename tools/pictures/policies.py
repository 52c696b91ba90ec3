"""A busy session under each policy: the same queue four times, and a new run with another `if_busy`."""

from tools.pictures.drawing import Drawing


def draw() -> str:
    """Return the picture."""
    picture = Drawing(386, "A run comes to a busy session: it waits, is refused, interrupts, or rolls back")
    left, comes, right = 120, 290, 624
    picture.path(f"M{comes} 44V352", arrow=False, kind="line dashed")
    picture.text(comes, 34, "the new run comes", "small")
    for number, (policy, old_end, fate) in enumerate(
        (
            ("enqueue", 400, "ends as it would"),
            ("reject", 400, "ends as it would"),
            ("interrupt", comes + 20, "cancelled; what it did is kept"),
            ("rollback", comes + 20, "cancelled; what it did is hidden"),
        )
    ):
        top = 58 + number * 76
        picture.text(106, top + 18, policy, "strong", "end")
        picture.box(left, top, old_end - left, 26, "work", 5)
        picture.text((left + min(old_end, comes)) / 2, top + 18, "executes", "on")
        picture.text(old_end + 8, top + 18, fate, "small", "start")
        below = top + 32
        match policy:
            case "enqueue":
                picture.box(comes, below, 220, 26, "wait", 5)
                picture.text(comes + 110, below + 18, "waits behind all that wait")
                picture.box(comes + 220, below, right - comes - 220, 26, "work2", 5)
                picture.text((comes + 220 + right) / 2, below + 18, "executes", "on")
            case "reject":
                picture.box(comes, below, 150, 26, "bad", 5)
                picture.text(comes + 75, below + 18, "409, not accepted")
            case _:
                picture.box(comes + 20, below, 120, 26, "work2", 5)
                picture.text(comes + 80, below + 18, "executes", "on")
                picture.box(comes + 140, below, right - comes - 140, 26, "wait", 5)
                picture.text((comes + 140 + right) / 2, below + 18, "then all that waited")
    picture.text(320, 372, "under every policy: never two runs of one session at once", "small")
    return picture.svg()
