"""History and window: what was said, and the part of it that the agent works with."""

from tools.pictures.drawing import Drawing

SIZE, STEP = 52, 58


def draw() -> str:
    """Return the picture."""
    picture = Drawing(224, "History keeps every message; the window is what the model is given")
    history = ["ask", "tool", "result", "answer", "ask", "answer", "ask", "tool", "result", "answer"]
    kinds = {"ask": "box", "answer": "own", "tool": "wait", "result": "wait"}
    picture.text(34, 34, "history: every message, whole", "strong", "start")
    for place, what in enumerate(history):
        x = 26 + place * STEP + 8
        picture.box(x, 46, SIZE, 36, kinds[what])
        picture.text(x + SIZE / 2, 69, what, "small")
    cut = 26 + 4 * STEP + 8 - (STEP - SIZE) / 2
    picture.path(f"M{cut} 84V144", arrow=False, kind="line dashed")
    picture.text(34, 134, "window: for the model", "strong", "start")
    picture.box(26 + 8, 146, 4 * STEP - 7, 36, "ask")
    picture.text(34 + 2 * STEP - 4, 169, "a summary", "small")
    for place, what in enumerate(history[4:], 4):
        x = 26 + place * STEP + 8
        picture.box(x, 146, SIZE, 36, kinds[what])
        picture.text(x + SIZE / 2, 169, what, "small")
        picture.path(f"M{x + SIZE / 2} 84V144", kind="faint")
    picture.text(320, 206, "a conversation manager changes the window, never history", "small")
    return picture.svg()
