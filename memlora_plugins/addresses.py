"""The one check of a server's address, whoever it was given to."""

from __future__ import annotations

from urllib.parse import urlsplit

from .errors import SettingsError


def checked_address(name: str, address: object, *, key: str) -> str:
    """`address`, if it is a plain http(s) one. Addresses are printed and serialized, so they hold no password.

    `name` is what the caller calls the address, `key` what they call the secret that belongs to it.

    Raises:
        SettingsError: it is something else; a password in it is not repeated.
    """
    try:
        parts = urlsplit(address) if isinstance(address, str) else None
        usable = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable, parts = False, None
    if parts is not None and "@" in parts.netloc:
        raise SettingsError(f"{name} carries a user or password; pass {key} instead.")
    if not usable or not isinstance(address, str):
        got = "something else" if "@" in str(address) else repr(address)
        raise SettingsError(f"{name} must be an http(s) address such as http://127.0.0.1:8000, got {got}.")
    return address
