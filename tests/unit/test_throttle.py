"""The upstream as the flows outside a poll see it: dials pass through unchanged."""

import fakeredis

from api_client import CallRequest
from config.settings import Settings
from tests.fakes import ScriptedUpstream, VirtualClock, record, virtual_time
from worker.container import terms
from worker.flows.throttle import ThrottledUpstream
from worker.store import Keys, RedisStore


def test_a_dial_keeps_the_time_that_it_was_granted_to_connect() -> None:
    """S18: the attempts of one dial share 30 s."""
    settings = Settings()
    store = RedisStore(fakeredis.FakeRedis(decode_responses=True), Keys(settings.key_prefix), terms(settings))
    with virtual_time() as traveller:
        clock = VirtualClock(traveller)
        upstream = ScriptedUpstream(clock, dials=[[record("J-1")]])
        paced = ThrottledUpstream(upstream, store, clock)
        for within in (2.5, None):
            paced.dial(CallRequest("C-1", "20"), before_send=lambda: None, within=within)
    assert upstream.withins == [2.5, None]
