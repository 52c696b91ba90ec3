"""The HTTP face: translate, call the service, translate back."""
