"""The page for people, and the numbers for Prometheus."""
