"""The verb that decides for continuous integration: `gate`."""


def gate() -> None:
    """Is NEW as correct, as good and as fast as BASE?"""
