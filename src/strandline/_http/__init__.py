"""HTTP: dialects and routes translate a request, call the service and translate the result."""
