"""Why an event could not be sent, for people: what is wrong, and who has to do what about it."""

import ssl
from typing import Final

import h11


class NotSent(Exception):
    """An event could not be sent; the text says why, for people, and has nothing of the URL."""


_EXPIRED: Final = 10
_NOT_YET: Final = 9
_SELF_SIGNED: Final = 18
_OTHER_HOST: Final = frozenset((62, 64))
"""For a name, and for an address."""
_UNKNOWN_AUTHORITY: Final = frozenset((2, 19, 20, 21))
"""See `X509_V_ERR_...` of OpenSSL."""
_TRUST: Final = (
    "set SSL_CERT_FILE to a file with {what} and the public authorities' certificates in the environment of this"
    " server, and restart it"
)
_NO_TLS: Final = frozenset(
    ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")
)


def reason(error: OSError | h11.RemoteProtocolError) -> str:
    """Return why a request failed."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate was refused: {_certificate(error)}"
        case ssl.SSLError() if error.reason in _NO_TLS:
            return "there was no answer in TLS: does the receiver serve https at this port?"
        case ssl.SSLError():
            return f"TLS failed: {(error.reason or 'the connection was closed').lower().replace('_', ' ')}"
        case h11.RemoteProtocolError():
            return "the answer was no HTTP/1.1"
        case _:
            return f"the connection failed: {error.strerror or type(error).__name__}"


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "it has expired, so its owner must renew it"
    if code == _NOT_YET:
        return "it is not valid yet, so the clock of this server or of the certificate's maker is wrong"
    if code in _OTHER_HOST:
        return "it is for another host, so its owner must add this one, or the URL is wrong"
    if code == _SELF_SIGNED:
        return f"it is signed by itself; to trust it all the same, {_TRUST.format(what='it')}"
    if code in _UNKNOWN_AUTHORITY:
        return (
            "this server does not know the authority that signed it, or the receiver does not send all certificates in"
            f" between; to trust that authority, {_TRUST.format(what='its certificate')}"
        )
    return error.verify_message or "it is not valid"
