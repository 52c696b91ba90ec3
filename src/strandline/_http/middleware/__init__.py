"""What every request and connection passes, whatever it asks for."""
