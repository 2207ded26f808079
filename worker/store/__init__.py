"""Keep the shared state in Redis: every change of it is one atomic script."""

from worker.store.base import Scripts
from worker.store.cases import CaseQueries
from worker.store.claims import ClaimScripts
from worker.store.connection import ThreadClient, connect
from worker.store.dispatches import DispatchScripts
from worker.store.erasure import Erased, ErasureScripts, NotErased
from worker.store.failures import FailureQueries
from worker.store.keys import Keys
from worker.store.lookups import LookUpScripts
from worker.store.metrics import Metrics
from worker.store.polls import PollScripts
from worker.store.queries import Queries
from worker.store.requests import RequestScripts
from worker.store.server_status import ServerStatus
from worker.store.settlements import SettlementScripts
from worker.store.sweeps import SweepScripts
from worker.store.terms import Terms

__all__ = ["Erased", "Keys", "NotErased", "RedisStore", "Scripts", "Terms", "ThreadClient", "connect"]


class RedisStore(
    ClaimScripts,
    SettlementScripts,
    DispatchScripts,
    PollScripts,
    SweepScripts,
    LookUpScripts,
    ErasureScripts,
    RequestScripts,
    CaseQueries,
    Queries,
    ServerStatus,
    FailureQueries,
    Metrics,
):
    """Implement worker.core.interfaces.Store on Redis 6.2 or newer, or on Valkey; threads may share an instance."""
