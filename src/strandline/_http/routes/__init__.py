"""Everything over HTTP besides asking for runs: each module translates, calls `Service`, and translates back."""
