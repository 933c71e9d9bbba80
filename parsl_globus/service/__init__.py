"""The self-hosted service: REST and AMQP; it never opens a payload."""
