"""What lies between a request for a run and its answer, the same in every dialect."""
