"""The pictures of the documentation, drawn by code: `make pictures` writes them to `docs/pictures`.

What they show comes from where it is true: the table of moves from `lifecycle.py`, a queue from times that were
measured. They are plain SVG, need no fonts of their own, and have a light and a dark side.
"""
