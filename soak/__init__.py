"""The soak: a real server under mixed load, killed at random instants, and a judge of what its clients received."""
