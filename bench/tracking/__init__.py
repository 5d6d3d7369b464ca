"""MLflow as a copy of the records."""

from bench.tracking.store import Tracker, TrackingError, store_uri

__all__ = ["Tracker", "TrackingError", "store_uri"]
