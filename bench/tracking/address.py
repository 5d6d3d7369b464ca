"""Addresses of MLflow stores: the secrets that may stand in them, and texts without these. Imports nothing heavy."""

import re
import urllib.parse

_ACCOUNT = re.compile(r"(?<=://)(?<!sqlite://)\S*@")
"""All before the last `@`, as a password may hold any of `/?#:@`; but a file's path may hold `@`, too."""
_QUERY = re.compile(r"(?<!sqlite)(://[^\s?#]*)[?#]\S*")
_SECRET_KEY = re.compile(r"(?:pass|pwd|token|secret|key)[\w .-]*=", re.IGNORECASE)


def redacted(text: str) -> str:
    """A text without the user names, passwords and queries of the addresses in it."""
    return _QUERY.sub(r"\1?***", _ACCOUNT.sub("***@", text))


def secret_in(uri: str) -> str | None:
    """What an address holds that must not be recorded, in words; None where it holds nothing such.

    Queries are searched as a whole, as drivers nest them: `?odbc_connect=...;PWD=...`.
    """
    if not uri.startswith("sqlite:///") and re.search(r"://.*@", uri, re.DOTALL):
        return "a user name or password"
    _, _, query = uri.replace("#", "?").partition("?")
    return "a password, token or key in its query" if _SECRET_KEY.search(urllib.parse.unquote_plus(query)) else None
