"""The token that every caller of the service must know: made, kept in a file that only its owner can read, compared."""

import hmac
import os
import secrets
from pathlib import Path

from cxr_ray.errors import UserError

TOKEN_BYTES = 32
SHORTEST = 16
"""Characters that a token of the user's must have at least."""


def make_token() -> str:
    """A new random token."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_in(file: Path) -> tuple[str, bool]:
    """The token in `file`, which is created with a new one if it is missing, and whether it was created.

    Raises `UserError` if others may read the file, or if its content is no token."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(file), False
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror}); choose another file with --token-file") from None
    token = make_token()
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(token + "\n")
    return token, True


def _read(file: Path) -> str:
    try:
        if file.stat().st_mode & 0o077:
            raise UserError(f"others than its owner may read {file}: chmod 600 {file}, or choose another --token-file")
        token = file.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        token = ""
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); choose another file with --token-file") from None
    if len(token) < SHORTEST or any(c.isspace() or not c.isprintable() for c in token):
        raise UserError(
            f"{file} holds no token of at least {SHORTEST} characters: delete it, and the service makes a new one"
        )
    return token


def is_authorized(header: str | None, token: str) -> bool:
    """Whether the value of an `Authorization` header is `Bearer TOKEN`, compared in constant time."""
    scheme, _, given = (header or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
