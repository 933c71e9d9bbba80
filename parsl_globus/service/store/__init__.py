"""What the service knows; it is the truth."""
