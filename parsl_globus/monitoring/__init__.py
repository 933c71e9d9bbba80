"""Parsl monitoring records of remote tasks."""
