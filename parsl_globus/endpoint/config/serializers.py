"""`allowed_serializers`, checked by the SDK's own rules before an endpoint starts."""

from __future__ import annotations

from typing import Any

from parsl_globus.errors import ConfigError


def check_serializers(names: Any) -> None:
    """Refuse what would fail each task at its worker; nothing and an empty list allow all.

    Raises:
        ConfigError: A name is of no serialization strategy, or the code's or the data's is missing.
    """
    if not names:
        return
    from globus_compute_sdk.serialize import ComputeSerializer  # takes a moment to import

    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError("This should be a list of names.", key_path="engine.allowed_serializers")
    try:
        ComputeSerializer(allowed_deserializer_types=names)
    except Exception as exc:
        # The SDK raises several kinds for it.
        raise ConfigError(f"The SDK does not take this list: {exc}", key_path="engine.allowed_serializers") from exc
