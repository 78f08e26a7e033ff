"""Store URLs: what one names, and how it is shown without its secrets.

Not here: opening what it names (`opening.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import URL

from store.errors import InvalidValue
from store.values import shown

REMEDY = "give sqlite:///FILE (four slashes: an absolute path), postgresql://USER@HOST/DATABASE or memory://NAME"
PASSWORD = re.compile(r"(://[^:@/?]*):.*@", re.DOTALL)
SECRET_OPTION = re.compile(r"([?&]\w*password=)[^&]*", re.IGNORECASE)


class StoreUrl(NamedTuple):
    """A store's URL, taken apart as far as choosing the backend needs."""

    scheme: str
    """memory, sqlite or postgresql."""
    path: str
    """memory: the name; sqlite: the file; postgresql: the database."""


def parsed_url(url: object) -> StoreUrl:
    """Return what a store's URL names. Raises InvalidValue, without its password, if it can't be meant."""
    if not isinstance(url, str):
        raise InvalidValue("store", shown(url), REMEDY)
    scheme, _, rest = url.partition("://")
    if url.isprintable():
        if scheme == "postgresql" and (database := _database(url)):
            return StoreUrl(scheme, database)
        if scheme == "memory" and "?" not in url:
            return StoreUrl(scheme, rest)
        if scheme == "sqlite" and "?" not in url and rest.startswith("/") and rest not in ("/", "/:memory:"):
            return StoreUrl(scheme, rest[1:])
    location, _, options = shown_url(url).partition("?")
    if options and scheme in ("memory", "sqlite"):
        remedy = f"leave out ?{ascii(options)[1:-1]}, it takes no options: {REMEDY}"
        raise InvalidValue("store", ascii(location), remedy)
    raise InvalidValue("store", ascii(shown_url(url)), REMEDY)


def shown_url(url: str) -> str:
    """Return the URL as it may be printed, logged and put into an error: with *** where a password stands."""
    return SECRET_OPTION.sub(r"\1***", PASSWORD.sub(r"\1:***@", url))


def short_name(url: str) -> str:
    """Return what people call a store: the name of its file, of its database, or of its schema there."""
    schema = re.search(r"[?&]search_path=([^&]+)", url)
    return schema[1] if schema else Path(parsed_url(url).path).name


def shared_url(url: str) -> str:
    """Return the URL as other processes of this machine can use it: with an absolute path.

    Raises InvalidValue for what can't be meant, and for a memory store, which no other process sees.
    """
    scheme, path = parsed_url(url)
    if scheme == "memory":
        remedy = "a memory store serves one process: give sqlite:///FILE, or use cluster.testing.InProcessRuntime"
        raise InvalidValue("store", ascii(shown_url(url)), remedy)
    return url if scheme != "sqlite" else f"sqlite:///{Path(path).absolute()}"


def without_secrets(url: URL) -> URL:
    """Return the URL without what opens the database: for a command line, which others may read."""
    secrets = [name for name in url.query if SECRET_OPTION.fullmatch(f"?{name}=")]
    return url._replace(password=None).difference_update_query(secrets)


def _database(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # checks it
    except ValueError:
        return ""
    return parts.path.strip("/")
