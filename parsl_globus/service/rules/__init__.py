"""What may happen; no HTTP, no SQL."""
