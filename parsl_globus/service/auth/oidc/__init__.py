"""Logins at an OpenID Connect issuer."""
