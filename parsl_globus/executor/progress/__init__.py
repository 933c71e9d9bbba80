"""A view of a workflow while it runs; `view` says how the parts go together."""

from parsl_globus.executor.progress.view import progress

__all__ = ("progress",)
