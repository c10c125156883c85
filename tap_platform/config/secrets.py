"""Secrets in URLs: neither a config nor a log is a place for them."""

from __future__ import annotations

import re
from typing import Any

NO_SECRETS = (
    "the URL holds a key or password, which configs and logs would keep: take it out, and give it"
    " by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
    " GOOGLE_APPLICATION_CREDENTIALS, FSSPEC_HTTP, MLFLOW_TRACKING_USERNAME and"
    " MLFLOW_TRACKING_PASSWORD)"
)
_OF_KEYS = frozenset({"http", "https", "s3", "s3a", "gs", "gcs"})
"""Kinds of URLs whose `name@` can only be a key; elsewhere it may be an account."""
_SIGNED = re.compile(r"[?&](x-amz-|x-goog-|awsaccesskeyid|signature|sig|token|access_token)", re.I)


def secret_in(url: str) -> bool:
    """Whether a URL holds a key, a password or a signature; a path holds none."""
    scheme, mark, rest = url.partition("://")
    user, at, _ = rest.rpartition("@") if scheme in ("s3", "s3a") else _host(rest).rpartition("@")
    # The keys of S3 may hold a slash, and names in a bucket an `@`.
    has_user = bool(at) and (":" in user or (scheme in _OF_KEYS and "/" not in user))
    return bool(mark) and (has_user or _SIGNED.search(rest) is not None)


def without_secret(url: str) -> str:
    """A URL that `secret_in` warns of, as far as it may be shown."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://…{rest.partition('?')[0].rpartition('@')[2]}"


def refuse_secrets(value: Any) -> Any:
    """Check a value of a config, whatever it is.

    Raises:
        ValueError: if it is a URL that holds a secret; the secret is not told.
    """
    if isinstance(value, str) and secret_in(value):
        raise ValueError(NO_SECRETS)
    return value


def _host(rest: str) -> str:
    return re.split(r"[/?#]", rest, maxsplit=1)[0]
