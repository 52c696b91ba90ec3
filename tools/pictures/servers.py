"""Several servers over one database: a request comes to one of them, and the one that has its session answers."""

from tools.pictures.drawing import Drawing


def draw() -> str:
    """Return the picture."""
    picture = Drawing(
        330, "A request may come to any server; the one that has its session answers; sessions of a lost one move"
    )
    picture.named_box(20, 126, 96, 58, "clients")
    picture.named_box(160, 126, 96, 58, "balancer")
    tops = (24, 126, 228)
    picture.named_box(320, tops[0], 138, 58, "server 1", "ada, ben", "own")
    picture.named_box(320, tops[1], 138, 58, "server 2", "cleo, dan", "own")
    picture.named_box(320, tops[2], 138, 58, "server 3", "killed: eve, finn", "bad")
    picture.named_box(512, 86, 112, 100, "PostgreSQL", "all that lasts")
    picture.path("M116 155H158")
    picture.path("M256 148C290 148 284 53 318 53")
    picture.label(262, 84, "for cleo")
    picture.path("M256 155H318", kind="line dashed")
    picture.path("M372 82V124")
    picture.text(366, 108, "passed on", "small", "end")
    picture.path("M420 228V188", kind="line dashed")
    picture.text(428, 213, "its sessions move", "small", "start")
    picture.path("M458 53C496 53 484 115 510 115")
    picture.path("M458 155H510")
    picture.text(320, 314, "each session belongs to one server at a time, by a lease of 10 s in the database", "small")
    return picture.svg()
