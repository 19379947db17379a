"""API keys: who may ask, and whose cached prompts a request may share."""

import hashlib
import hmac

from starlette.requests import Request

from server.errors import AuthenticationError


class KeyRing:
    """The keys that open the API. Without any it is open."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        # Digests all have one length, so comparing takes the same time for every wrong key.
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    async def require(self, request: Request) -> None:
        """A dependency that raises AuthenticationError unless the request carries one of the keys."""
        self.identify(request)

    def identify(self, request: Request) -> str:
        """A name for the request's key that doesn't give it away, "" where no keys are set. Raises as `require`."""
        if not self._digests:
            return ""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # Starlette reads header bytes as Latin-1; this gets the bytes back.
        given = hashlib.sha256(key.strip().encode("latin-1")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise AuthenticationError("a valid API key is needed, in the header authorization: Bearer KEY")
        return hashlib.sha256(b"identity" + given).hexdigest()[:16]
