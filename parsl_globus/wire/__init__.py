"""Formats shared by all sides; no socket, no Parsl."""
