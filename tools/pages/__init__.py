"""Parts of the documentation that are produced by running what they describe: `python -m tools.pages` writes them."""
