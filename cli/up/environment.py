"""Isolate the processes of `callwatch up` from the configuration in the environment and in the current folder."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from config.env_file import read_env_file
from config.secret_files import FILE
from config.settings_error import SettingsError

# Celery and Flower would read these variables past the settings, for example another broker.
FOREIGN_PREFIXES = ("CELERY_", "FLOWER_")
FOREIGN_NAMES = frozenset({"APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "SKIP_CHECKS"})
ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Let only the settings configure Celery and Flower within the block; children find the packages in any folder."""
    before, folder = dict(os.environ), Path.cwd()
    try:
        for name in list(os.environ):
            if name.startswith(FOREIGN_PREFIXES) or name in FOREIGN_NAMES:
                del os.environ[name]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), before.get("PYTHONPATH"))))
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.chdir(folder)


def load_environment(own: Mapping[str, str], unless_set: Mapping[str, str], folder: Path) -> None:
    """Set `own` for this process and its children, and those of `unless_set` that the environment does not set.

    The process changes to `folder`, where it reads no `.env`.
    """
    given = {name.upper(): name for name in os.environ}
    for name in {*own, *(name + FILE for name in own)} & given.keys():
        del os.environ[given[name]]
    os.environ.update({name: value for name, value in unless_set.items() if name not in given})
    os.environ.update(own)
    os.chdir(folder)


def conflicting_settings(own: Mapping[str, str]) -> list[str]:
    """Return the settings that the environment or `.env` sets to another value: a second terminal must export them."""
    found: dict[str, str | None] = {}
    with contextlib.suppress(SettingsError):  # the demonstration reads no `.env`, so a broken one does not end it
        found.update(read_env_file())
    found.update(os.environ)
    given = {name.upper(): value for name, value in found.items()}
    return [name for name, value in own.items() if name in given and given[name] != value]
