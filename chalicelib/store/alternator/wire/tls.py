"""Whom https endpoints must show a certificate of."""

import ssl

from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting


def context(settings: Settings) -> ssl.SSLContext | None:
    """None for http. Raises InvalidSetting if ALTERNATOR_CA_FILE holds no certificates."""
    is_https = settings.endpoints[0].startswith("https:")
    return trusting(settings.ca_file) if is_https else None


def trusting(ca_file: str | None) -> ssl.SSLContext:
    """These certificates, or else the system's. Raises InvalidSetting if the file holds none."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise InvalidSetting(
            f"ALTERNATOR_CA_FILE={ca_file!r}: expected a PEM file of certificates: {error}"
        ) from error


def distrust(error: BaseException) -> str | None:
    """What to say of a certificate that was not accepted; None for any other error."""
    if "CERTIFICATE_VERIFY_FAILED" not in str(error):
        return None
    return (
        "the store's certificate is not one that ALTERNATOR_CA_FILE (without it, the system's"
        f" certificates) vouches for: {error}"
    )
