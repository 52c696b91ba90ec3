"""HTTP: dialects and routes translate, call the service, translate back."""
