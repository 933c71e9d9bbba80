"""For tests, ours and users': a service, endpoints and Parsl configurations on demand."""
