"""YAML text to typed model, and model to Parsl objects."""
