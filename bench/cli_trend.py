"""The verb that shows figures over nights: `trend`."""


def trend() -> None:
    """Figures of many suites over time."""
