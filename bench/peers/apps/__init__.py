"""The servers of the benchmark, each as its makers' pages say, around the same agent."""
