"""What RabbitMQ's own configuration must say, so that it asks the service about logins."""

from __future__ import annotations


def server_settings(service_url: str, secret: str) -> str:
    """Lines for `rabbitmq.conf`; the plugin `rabbitmq_auth_backend_http` must be enabled.

    Args:
        service_url: Base URL at which RabbitMQ reaches the service.
        secret: See `BrokerLogins.auth_secret`.
    """
    lines = [
        "# rabbitmq-plugins enable rabbitmq_auth_backend_http",
        "auth_backends.1 = internal",
        "auth_backends.2 = http",
        "# By POST, so that no password stands in an address.",
        "auth_http.http_method = post",
        *(
            f"auth_http.{what}_path = {service_url}/broker-auth/{secret}/{what}"
            for what in ("user", "vhost", "resource", "topic")
        ),
    ]
    return "\n".join(lines) + "\n"
