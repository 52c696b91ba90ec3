"""What people watch a server by: metrics for Prometheus."""
