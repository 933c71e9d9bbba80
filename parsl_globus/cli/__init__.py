"""The command `parsl-globus`: arguments, messages, exit codes."""
