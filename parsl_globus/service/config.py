"""Settings of one service process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from parsl_globus.wire.documents import DEFAULT_PAYLOAD_LIMIT_BYTES


@dataclass(frozen=True)
class OidcConfig:
    """An OpenID Connect issuer that people may log in at.

    Attributes:
        issuer: Its URL, exactly as it writes it itself.
        client_id: Who this service is there.
        client_secret: The secret that goes with it; `None` if the issuer gave none.
        username_claim: What a user's name is taken from, at the first login.
        create_users: Whether whom the issuer vouches for may come in; otherwise only users that were added before.
    """

    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    username_claim: str = "preferred_username"
    create_users: bool = False


@dataclass(frozen=True)
class ServiceConfig:
    """Settings of a service.

    Attributes:
        data_dir: Folder of the database, the key and the owner's credentials.
        host: Address to listen on, REST and AMQP.
        port: REST port; 0 picks a free one.
        amqp_port: Port of the embedded broker; 0 picks a free one.
        database_url: URL of a PostgreSQL database, with the password; without it, SQLite in `data_dir`.
        migrate: Bring the PostgreSQL database's schema up to date, instead of refusing one that is not.
        broker_url: AMQP URL of a RabbitMQ with the service's own login there; without it, the embedded broker runs.
        broker_public_url: How endpoints and clients reach that RabbitMQ, if not as the service does.
        insecure: Listen on other than loopback addresses although nothing is encrypted.
        public_only: Speak the public protocol only, none of our extensions (PROTOCOL.md section 10).
        payload_limit_bytes: Largest request body.
        max_tasks_per_request: Most tasks in one submission.
        rate_limit_requests: How many requests one identity may make in each window; 0 for any number.
        rate_limit_window_s: The window.
        tls_cert: Certificate chain, PEM, for REST and the embedded broker.
        tls_key: Its private key, PEM.
        behind_proxy: A proxy before the service speaks TLS; the headers X-Forwarded-* of one on this machine count.
        public_host: The name under which others reach the service; by default the address it listens on.
        oidc: The issuer that people may log in at, if any.
        blob_limit_bytes: Largest blob.
        blob_quota_bytes: How large the blobs of one identity may be together.
        blob_quota_count: How many one identity may have.
        blob_life_s: How long a blob is kept.
        token_life_s: How long a bearer token is good for.
        missed_heartbeats: After how many heartbeat periods of silence an endpoint counts as offline.
        start_repeat_s: How long a start command is given before another submission repeats it.
        result_life_s: How long an ended task is kept, with its result.
        replay_s: After a start, results that came within this time are delivered once more, as the embedded
            broker has forgotten which were fetched.
        full_sync: Have SQLite wait for the disk at every commit (see `SqliteDatabase`).
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 5000
    amqp_port: int = 5672
    database_url: str | None = field(default=None, repr=False)
    migrate: bool = False
    broker_url: str | None = field(default=None, repr=False)
    broker_public_url: str | None = None
    insecure: bool = False
    public_only: bool = False
    payload_limit_bytes: int = DEFAULT_PAYLOAD_LIMIT_BYTES
    max_tasks_per_request: int = 20_000
    rate_limit_requests: int = 0
    rate_limit_window_s: float = 10.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    public_host: str | None = None
    oidc: OidcConfig | None = None
    blob_limit_bytes: int = 1024**3
    blob_quota_bytes: int = 10 * 1024**3
    blob_quota_count: int = 10_000
    blob_life_s: float = 14 * 86_400
    token_life_s: float = 2 * 86_400
    missed_heartbeats: float = 2.5
    start_repeat_s: float = 5.0
    result_life_s: float = 14 * 86_400
    replay_s: float = 600.0
    full_sync: bool = False
