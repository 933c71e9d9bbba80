"""The endpoint agent: turns a site's YAML into Parsl's own executor and runs tasks on it."""
