"""Test the throttled upstream of the flows outside a poll: dials pass through unchanged."""

import fakeredis

from api_client import CallRequest
from config.settings import Settings
from tests.fakes import ScriptedUpstream, VirtualClock, record, virtual_time
from worker.container import terms
from worker.flows.throttle import ThrottledUpstream
from worker.store import Keys, RedisStore


def test_s18_dial_keeps_its_connect_budget() -> None:
    """S18: the attempts of one dial share 30 s."""
    settings = Settings()
    store = RedisStore(fakeredis.FakeRedis(decode_responses=True), Keys(settings.key_prefix), terms(settings))
    with virtual_time() as traveller:
        clock = VirtualClock(traveller)
        upstream = ScriptedUpstream(clock, dials=[[record("J-1")]])
        throttled = ThrottledUpstream(upstream, store, clock)
        for within in (2.5, None):
            throttled.dial(CallRequest("C-1", "20"), before_send=lambda: None, within=within)
    assert upstream.withins == [2.5, None]
