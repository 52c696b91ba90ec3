"""What the tests put in the place of services that would need a network."""
