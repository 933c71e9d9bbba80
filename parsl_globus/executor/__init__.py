"""The Parsl plugin: `GlobusComputeExecutor` and its parts."""
