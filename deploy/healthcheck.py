"""Asks a node whether it serves: ``healthcheck.py HOST:PORT [CA]``, exit code 0 or 1.

Imports no more than gRPC, since it runs every few seconds beside the model. With the authority's
file CA, by default the one that compose.yaml mounts, the call uses TLS.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULT_CA = Path("/run/baton/ca.pem")
SECONDS = 5


def main(address: str, ca: Path = DEFAULT_CA) -> int:
    try:
        with _channel(address, ca) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    except (grpc.RpcError, OSError) as error:
        print(f"{address}: {error.details() if isinstance(error, grpc.Call) else error}")
        return 1
    print(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)


def _channel(address: str, ca: Path) -> grpc.Channel:
    options = [("grpc.enable_http_proxy", 0)]
    if not ca.exists():
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()), options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:3])))
