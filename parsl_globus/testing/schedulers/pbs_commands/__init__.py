"""The commands of the PBS Pro front end, each run as `python -m`."""
