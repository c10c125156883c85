"""Who to ask, and when to ask again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

LONGEST_PAUSE = 60.0
"""Seconds that a server may ask to wait before the next try."""
_MAY_PASS = (429, 500, 502, 503, 504)


def configuration(context: str | None) -> Any:
    """What a kube config says (KUBECONFIG, ~/.kube/config, or a pod's own).

    Args:
        context: of the config; None is its current one.

    Raises:
        ValueError: if there is none, or it has no such context.
    """
    from kubernetes import client, config
    from yaml import YAMLError

    found = client.Configuration()
    try:
        if context is None and _in_a_pod():
            config.load_incluster_config(client_configuration=found)
        else:
            # The library looks at the variable only once, when it is imported.
            path = os.environ.get("KUBECONFIG")
            config.load_kube_config(path, context=context, client_configuration=found)
    except (YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ValueError(
            f"the kube config {_config_files()} is broken ({type(error).__name__}: {told}): repair"
            " it, or name another in KUBECONFIG"
        ) from None
    except (config.ConfigException, OSError) as error:
        raise ValueError(
            f"no Kubernetes to ask ({error}): name a kube config in KUBECONFIG, or put one at"
            " ~/.kube/config; `kubectl config get-contexts` shows what it knows"
        ) from None
    # What is tried again, and after how long, `pause` tells alone.
    found.retries = False
    return found


def _config_files() -> str:
    return os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())


def _in_a_pod() -> bool:
    """Whether the config is what Kubernetes gives to pods."""
    configured = "KUBECONFIG" in os.environ or Path("~/.kube/config").expanduser().exists()
    return "KUBERNETES_SERVICE_HOST" in os.environ and not configured


def worth_another_try(error: BaseException) -> bool:
    """Whether another try may succeed."""
    from urllib3.exceptions import HTTPError

    status = getattr(error, "status", None)
    return isinstance(error, HTTPError) or status in _MAY_PASS


def pause(state: Any) -> float:
    """Seconds until the next try: what the server asks for, or longer and longer."""
    from tenacity import wait_random_exponential

    headers = getattr(state.outcome.exception(), "headers", None) or {}
    asked = str(headers.get("Retry-After", ""))
    if asked.isdecimal():
        return min(float(asked), LONGEST_PAUSE)
    return wait_random_exponential(multiplier=0.2, max=5)(state)
