"""Parts of the documentation that are made by running what they tell of: `python -m tools.pages` writes them."""
