"""The manager that starts user endpoints on command."""
