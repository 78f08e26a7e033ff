"""Looking at a Ray cluster before joining it: that it is there, takes our token, and runs our versions.

Ray itself tries an address where nothing answers for two minutes and then ends the process; so it is asked here
first, within seconds. Not here: connecting (`ray_session.py`).
"""

from __future__ import annotations

import json
from typing import Any

import grpc
from ray._private import utils as ray_utils
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.exceptions import AuthenticationError

from store.errors import EventrayError

ANSWER_MAX_S = 5.0
NOT_LET_IN = (
    "it refuses this process's token: set RAY_AUTH_MODE=token, and give the cluster's token in RAY_AUTH_TOKEN, in a "
    "file named by RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token"
)


class RayUnavailable(EventrayError):
    """Ray at {0} can't be used: {1}"""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)


def check_cluster(address: str, answer_max_s: float = ANSWER_MAX_S) -> None:
    """Return if a Ray of our version, on our Python, answers at `address` (HOST:PORT or auto) and takes our token.

    Blocks for `answer_max_s` at most. Raises RayUnavailable.
    """
    if "://" in address:
        remedy = "Ray Client is not served: give HOST:PORT on a machine of the cluster, or run this as a Ray job"
        raise RayUnavailable(address, remedy)
    try:
        found = canonicalize_bootstrap_address(address)
    except (ValueError, OSError) as error:
        raise RayUnavailable(address, f"{error}; give HOST:PORT") from error
    if found is None:
        raise RayUnavailable(address, "no Ray runs on this machine: start one, or give HOST:PORT")
    if address == "auto":  # as Ray itself does then, and only then
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    _check_versions(address, found, _metadata(address, found, answer_max_s))


def _metadata(address: str, found: str, answer_max_s: float) -> dict[str, Any]:
    """Ask the cluster's control store who it is."""
    messages: Any = gcs_service_pb2  # generated, without types
    request = messages.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
    try:
        with init_grpc_channel(found) as channel:
            control_store = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)  # type: ignore[no-untyped-call]
            reply = control_store.InternalKVGet(request, timeout=answer_max_s, wait_for_ready=True)
        metadata: dict[str, Any] = json.loads(reply.value)
    except AuthenticationError as error:
        raise RayUnavailable(address, NOT_LET_IN) from error
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise RayUnavailable(address, NOT_LET_IN) from error
        if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
            raise RayUnavailable(address, f"no Ray answers there within {answer_max_s:g} s") from error
        raise RayUnavailable(address, f"{error.code().name}: {error.details()}") from error
    except ValueError as error:
        raise RayUnavailable(address, "what answers there is no Ray") from error
    return metadata


def _check_versions(address: str, found: str, metadata: dict[str, Any]) -> None:
    try:
        ray_utils.check_version_info(metadata, found)
    except RuntimeError as error:
        our_ray, our_python = ray_utils.compute_version_info()  # type: ignore[no-untyped-call]
        theirs = f"Ray {metadata['ray_version']} on Python {metadata['python_version']}"
        reason = f"it runs {theirs}, this process Ray {our_ray} on Python {our_python}: use the same versions"
        raise RayUnavailable(address, reason) from error
