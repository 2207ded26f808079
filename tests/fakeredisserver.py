"""Provide fakeredis with a faster Lua: most of its time is spent around the scripts, not in their commands."""

from typing import Any

import fakeredis
import redis

# As in Redis, a script that creates a global variable fails; fakeredis lists all of them for each command instead.
ONLY_LOCALS = b"""
setmetatable(_G, {__newindex = function(_, name)
  error("Script attempted to create global variable '" .. tostring(name) .. "'", 2)
end})
"""


class FastRuntime:
    """A Lua runtime that compiles each script once, and collects garbage when Lua decides.

    fakeredis would compile a script for each run, and collect the whole garbage after it.
    """

    def __init__(self, server: Any) -> None:
        self._compile = server._lua_runtime.compile
        self._compiled: dict[Any, Any] = {"collectgarbage()": lambda: None}
        self.table_from = server._lua_runtime.table_from
        server._lua_runtime.execute(ONLY_LOCALS)
        server._lua_runtime.eval("function(call) redis.call = call end")(
            lambda name, *args: server._lua_current_socket[0]._lua_redis_call(self, set(), name, *args)
        )

    def globals(self) -> dict[str, Any]:
        """Return the global variables that a script has created: none."""
        return {}

    def execute(self, script: Any) -> Any:
        """Run a script."""
        chunk = self._compiled.get(script)
        if chunk is None:
            chunk = self._compiled[script] = self._compile(script)
        return chunk()


def fake_server() -> fakeredis.FakeServer:
    """Return a server without content."""
    server = fakeredis.FakeServer()
    with fakeredis.FakeRedis(server=server) as client:
        client.eval("return 1", 0)  # creates the runtime
    server._lua_runtime = FastRuntime(server)
    return server


def fake_redis(**options: Any) -> redis.Redis:
    """Return a client of a new server; it decodes responses."""
    client: redis.Redis = fakeredis.FakeRedis(server=fake_server(), decode_responses=True, **options)
    return client
