"""Where accepted runs and history are kept: the port and its implementations, one file each."""
