"""The error of settings with which no process may start."""

from collections.abc import Iterable


class SettingsError(Exception):
    """Wrong settings or a broken `.env`; one line per fault, each with its place, none with a secret."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))
