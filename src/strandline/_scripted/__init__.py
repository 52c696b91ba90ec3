"""Models that answer from a script: no key, no network. `model` is the one for scripts, `conversation` a ready one."""
