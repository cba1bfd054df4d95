"""Servers of storage on loopback, which end with their block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def ftp_server(folder: Path) -> Iterator[str]:
    """Yield the URL of a folder that an FTP server serves."""
    pytest.importorskip("pyftpdlib")
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import ThreadedFTPServer

    authorizer: Any = DummyAuthorizer()
    authorizer.add_user("user", "secret", str(folder), perm="elradfmwMT")
    handler: Any = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    server: Any = ThreadedFTPServer(("127.0.0.1", 0), handler)
    _, port = server.address
    thread = threading.Thread(target=server.serve_forever, kwargs={"timeout": 0.05, "handle_exit": False}, daemon=True)
    thread.start()
    try:
        yield f"ftp://user:secret@127.0.0.1:{port}/store"
    finally:
        server.close_all()
        thread.join(5)


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of a folder in a bucket of moto, which stands in for S3."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "user")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket/store"
    finally:
        server.stop()
