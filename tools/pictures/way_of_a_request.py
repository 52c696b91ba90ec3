"""The way of a request through the parts of the server, and of its answer back."""

from tools.pictures.drawing import Drawing


def draw() -> str:
    """Return the picture."""
    picture = Drawing(330, "The way of a request: HTTP, Service, Journal, Queues, Runner, Agent, and back")
    picture.named_box(24, 30, 130, 58, "client")
    picture.named_box(254, 30, 130, 58, "HTTP", "/chat")
    picture.named_box(486, 30, 130, 58, "Service", kind="own")
    picture.named_box(486, 136, 130, 58, "journal", "a file", kind="own")
    picture.named_box(486, 242, 130, 58, "Queues", "whose turn", kind="own")
    picture.named_box(254, 242, 130, 58, "Runner", kind="own")
    picture.named_box(24, 242, 130, 58, "your agent", "its own thread")

    picture.path("M154 50H252")
    picture.text(203, 43, "message", "small")
    picture.path("M384 50H484")
    picture.text(434, 43, "submit", "small")
    picture.path("M551 88V134")
    picture.text(545, 116, "accept", "small", "end")
    picture.path("M551 194V240")
    picture.text(545, 222, "claim", "small", "end")
    picture.path("M486 271H386")
    picture.text(435, 264, "one run", "small")
    picture.path("M254 262H156")
    picture.text(205, 255, "input", "small")
    picture.path("M154 282H252")
    picture.text(203, 300, "reports", "small")
    picture.path("M340 242C340 190 420 165 484 165")
    picture.label(372, 186, "rounds, results, the end")
    picture.path("M486 155C380 150 319 130 319 90")
    picture.label(352, 122, "the outcome")
    picture.path("M254 70H156")
    picture.text(205, 88, "answer", "small")
    return picture.svg()
