"""uvicorn, set up for this product: guarded protocol, own log lines, a bounded drain."""

from __future__ import annotations

import uvicorn
from django.conf import settings

from proxy_site.env import share_metrics
from proxy_site.guard import GuardedProtocol, Patience


class Protocol(GuardedProtocol):
    """The guard with this installation's patience (a class, because uvicorn's workers import it by name)."""

    patience = Patience(
        header=settings.GATEHOUSE.header_timeout,
        body=settings.GATEHOUSE.body_timeout,
        write=settings.GATEHOUSE.write_timeout,
        connections=settings.GATEHOUSE.max_connections,
    )


def run(host: str, port: int, workers: int) -> None:
    """Serve until told to stop. Blocks."""
    env = settings.GATEHOUSE
    if workers > 1:
        share_metrics(settings.DATA_DIR / "metrics")
    uvicorn.run(
        "proxy_site.asgi:application",
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level=env.log_level.lower(),
        server_header=False,
        date_header=True,
        backlog=2048,
        forwarded_allow_ips=env.forwarded_allow_ips,
        timeout_graceful_shutdown=int(env.drain_timeout),
        timeout_keep_alive=75,
    )
