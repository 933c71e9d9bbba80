"""Speed, measured side by side: local HTEX, Parsl's class with the public agent, and this package. See `make bench`."""
