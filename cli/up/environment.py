"""What a process is told by its environment and its folder, and how `callwatch up` keeps it away from its children."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from dotenv import dotenv_values

from config.secret_files import FILE

# Celery and Flower take whole configurations from these, past the settings: another broker than the lock's Redis.
FOREIGN_PREFIXES = ("CELERY_", "FLOWER_")
FOREIGN_NAMES = frozenset({"APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "SKIP_CHECKS"})
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Within the block nothing but the settings configures Celery and Flower; children find the packages anywhere."""
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
    """Let `own` hold for this process and its children whatever was set, `unless_set` where the environment is silent.

    The process goes to `folder`, away from any `.env`.
    """
    given = {name.upper(): name for name in os.environ}
    for name in {*own, *(name + FILE for name in own)} & given.keys():
        del os.environ[given[name]]
    os.environ.update({name: value for name, value in unless_set.items() if name not in given})
    os.environ.update(own)
    os.chdir(folder)


def conflicting_settings(own: Mapping[str, str]) -> list[str]:
    """Return which of these settings the environment or `.env` sets otherwise: a second terminal must be told."""
    told: dict[str, str | None] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):  # what cannot be read is in nobody's way
        told.update(dotenv_values(".env", encoding="utf-8-sig"))
    told.update(os.environ)
    given = {name.upper(): value for name, value in told.items()}
    return [name for name, value in own.items() if name in given and given[name] != value]
