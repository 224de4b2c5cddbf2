"""Requests to servers: how long an answer may take, and retries, each announced by a warning."""

import logging
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ulzoo.runtime.messages import one_line

T = TypeVar("T")
TIMEOUT = 20.0  # seconds until a connection, and between two parts of an answer
DELAYS = (1.0, 4.0)  # seconds before the second and the third attempt


def retry(request: Callable[[], T], name: str, is_final: Callable[[BaseException], bool]) -> T:
    """The result of `request`, which is repeated after temporary errors, with a warning each time.

    Args:
        name: what is requested, for the warnings.
        is_final: whether another attempt is pointless after an error.

    Raises:
        Exception: the final error, or that of the last attempt.
    """
    for attempt, delay in enumerate(DELAYS, 2):
        try:
            return request()
        except Exception as error:  # aiohttp, botocore, ... have error classes of their own
            if is_final(error):
                raise
            attempts = f"attempt {attempt} of {len(DELAYS) + 1}"
            warnings.warn(f"{name}: {reason(error)}; trying again in {delay:g} s, {attempts}", stacklevel=2)
            time.sleep(delay)
    return request()


def reason(error: BaseException) -> str:
    """An error of a request in a few words."""
    cause = getattr(error, "reason", error)  # urllib wraps the errors of sockets
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return f"the server did not answer in time ({TIMEOUT:g} s per read)"
    return one_line(" ".join(str(error).split())) or type(error).__name__


@contextmanager
def socket_timeout() -> Iterator[None]:
    """Apply `TIMEOUT` to sockets that are opened in the block without a timeout of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class NoAnswer(Exception):
    """The Hugging Face hub did not answer after several attempts."""


@contextmanager
def hub_retries(name: str) -> Iterator[None]:
    """Announce the retries of huggingface_hub, which are silent minutes, by a warning each, and end them early.

    Its log messages, which quote URLs and headers of the response, are suppressed.

    Args:
        name: what is requested, for the warnings.

    Raises:
        NoAnswer: all attempts failed.
    """
    log, handler = logging.getLogger("huggingface_hub"), _HubRetries(name)
    before = log.handlers, log.propagate, log.level
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])


class _HubRetries(logging.Handler):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name_of_request = name

    def emit(self, record: logging.LogRecord) -> None:
        if "Trying to resume download" in record.getMessage():
            warnings.warn(f"{self.name_of_request}: the connection broke; the download is resumed", stacklevel=1)
        match = re.search(r"Retrying in (\S+)s \[Retry (\d+)/", record.getMessage())
        if match is None:
            return
        attempt, attempts = int(match[2]) + 1, len(DELAYS) + 1
        if attempt > attempts:
            raise NoAnswer(self.name_of_request)
        message = f"{self.name_of_request}: the hub does not answer; trying again in {match[1]} s"
        warnings.warn(f"{message}, attempt {attempt} of {attempts}", stacklevel=1)
