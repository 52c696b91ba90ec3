"""Where the command begins, also as `python -m strandline`: Ctrl-C ends it without a word while it is being loaded."""

import signal


def main() -> None:
    """Run the command `strandline`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from strandline._cli import main as command

    signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    main()
