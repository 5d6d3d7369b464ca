"""MLflow as a copy of the records: written after a run, again at any time, and read back into records.

Names are imported when they are asked for: showing the store's page needs none of what reads records.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.tracking.address import redacted
    from bench.tracking.detached import copy_suite
    from bench.tracking.download import download_suites
    from bench.tracking.server import TrackingError, store_uri
    from bench.tracking.tracker import Tracker

_MODULES = {
    "Tracker": "tracker",
    "TrackingError": "server",
    "copy_suite": "detached",
    "download_suites": "download",
    "redacted": "address",
    "store_uri": "server",
}
__all__ = ["Tracker", "TrackingError", "copy_suite", "download_suites", "redacted", "store_uri"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
