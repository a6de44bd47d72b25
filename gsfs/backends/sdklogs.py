"""What cloud SDKs may log. Owns the levels of their loggers; gsfs's own logging is not its matter."""

from __future__ import annotations

import logging
from typing import Final

LOGGERS: Final = ("boto3", "botocore", "urllib3", "azure", "google", "requests")


def quiet_sdks() -> None:
    """Let SDKs log warnings and errors only, whatever the level of the rest.

    Below that, urllib3 logs URLs with their shared access signatures, and botocore logs session tokens.
    """
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
