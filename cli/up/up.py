"""Run a whole installation, with a simulated upstream or, with --live, the configured one: `callwatch up`."""

import contextlib
import importlib.util
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.connect import read_settings, require_broker, require_redis
from cli.signals import Signals
from cli.simulate import TOKEN_VARIABLE
from cli.ui.output import WRONG_USAGE, Failure, say
from cli.up import programs
from cli.up.embedded_redis import EmbeddedServer, EmbeddedServerError
from cli.up.environment import conflicting_settings, isolated, load_environment
from cli.up.supervisor import Child, Program, ServerProcess, Supervisor
from cli.up.tcp_ports import HOST, choose_ports
from cli.up.watchdog import Watchdog
from config.api_keys import SCOPES, KeysError, append_key, new_key
from config.redaction import redact

FLOWER_USER = GATEWAY_USER = "callwatch"
# Without them a worker waits a second for other workers at its start.
WORKER_OPTIONS = ("--without-mingle", "--without-gossip")
# A configured receiver may be the one of production, which would take the sample cases for real ones.
NO_NOTICES = dict.fromkeys(("CALLWATCH_NOTICE_URL", "CALLWATCH_NOTICE_TASK", "CALLWATCH_NOTICE_QUEUE"), "")
POLL_INTERVAL = "2"  # seconds, in the demonstration: short enough to show every status of a short call
SHORT_STOP, SPARE_STOP = (
    15.0,
    20.0,
)  # seconds for a worker to stop: in the demonstration; live, in addition to its time-outs
QUICK_STOP = 5.0  # seconds for a process without work to finish


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line; a value of None is chosen by `up`."""

    live: bool = False
    notices: bool = False
    port_redis: int | None = None
    port_simulator: int | None = None
    port_flower: int | None = None
    port_metrics: int | None = None
    port_gateway: int | None = None
    data: Path | None = None


def up(options: Options) -> None:
    """Start all processes, show the calls, stop all at a signal; Failure if a program, port or file is missing."""
    for module, extra in (("flower", "ops"), ("fastapi", "gateway")):
        if importlib.util.find_spec(module) is None:
            raise Failure(f"{module} is not installed: pip install 'callwatch[{extra}]'")
    with Signals() as signals, isolated(), _data_folder(options.data) as folder:
        (_live if options.live else _demonstrate)(options, folder, signals)


def _demonstrate(options: Options, folder: Path, signals: Signals) -> None:
    """Run a simulated upstream and an embedded Redis, and trigger the sample cases."""
    ports = choose_ports(
        {
            "redis": options.port_redis,
            "simulator": options.port_simulator,
            "flower": options.port_flower,
            "metrics": options.port_metrics,
            "gateway": options.port_gateway,
        },
        say,
    )
    server = EmbeddedServer(port=ports["redis"], data_dir=folder / "redis")
    token, password, bearer = (secrets.token_urlsafe(18) for _ in range(3))
    key, gateway = _gateway_key(folder)
    own = {
        **dict.fromkeys(("CALLWATCH_REDIS_URL", "CALLWATCH_BROKER_URL", "CALLWATCH_RESULT_URL"), server.url),
        "CALLWATCH_API_BASE_URL": f"http://{HOST}:{ports['simulator']}",
        "CALLWATCH_API_TOKEN": token,
        "CALLWATCH_FLOWER_AUTH": f"{FLOWER_USER}:{password}",
        "CALLWATCH_METRICS_TOKEN": bearer,
        "CALLWATCH_API_TRUST_ENV": "false",
        "CALLWATCH_ENABLED": "true",
        "CALLWATCH_REPLICAS": "0",
        "CALLWATCH_DEMO": "true",
        "CALLWATCH_KEY_PREFIX": "callwatch",
        **gateway,
        **({} if options.notices else NO_NOTICES),
    }
    others = conflicting_settings(own)
    load_environment(own, {"CALLWATCH_POLL_INTERVAL": POLL_INTERVAL}, folder / "logs")
    settings = read_settings()
    say("callwatch up: a demonstration; its upstream is simulated, no phone rings")
    _say_flower(ports["flower"], password)
    say(f"  simulator  {own['CALLWATCH_API_BASE_URL']}")
    say(f"             token {token}")
    say(f"  metrics    http://{HOST}:{ports['metrics']}/metrics")
    say(f"             bearer {bearer}")
    _say_gateway(ports["gateway"], key)
    say(f"  page       http://{HOST}:{ports['gateway']}/demo, an invented case whose calls the widget shows")
    say(f"  Redis      {HOST}:{ports['redis']}, the address below contains its password")
    say(f"  data       {folder}, with the output of each process in logs")
    say("in a second terminal, for the other commands:")
    for name in dict.fromkeys(("CALLWATCH_REDIS_URL", "CALLWATCH_API_BASE_URL", "CALLWATCH_API_TOKEN", *others)):
        say(f"  export {name}={own[name]}")
    trigger_worker, poll_worker = _workers(folder, SHORT_STOP)
    simulator = _simulator(folder, ports["simulator"], token)
    watchers = _watchers(folder, ports)
    with _running((ServerProcess(server), *watchers, simulator, trigger_worker, poll_worker), signals) as supervisor:
        from cli.up.demo_view import show_samples  # noqa: PLC0415 - imported while the processes start

        show_samples(settings, supervisor, signals, port=ports["simulator"], token=token)


def _live(options: Options, folder: Path, signals: Signals) -> None:
    """Start workers and Flower for the configured upstream and Redis, and show the calls."""
    if options.port_redis or options.port_simulator:
        raise Failure("--port-redis, --port-simulator: --live starts neither", exit_code=WRONG_USAGE)
    if options.notices:
        raise Failure("--notices: --live sends notices as configured", exit_code=WRONG_USAGE)
    settings = read_settings()
    if settings.api_base_url is None:
        raise Failure(
            "CALLWATCH_API_BASE_URL: missing, should be the upstream's address, like http://127.0.0.1:9015",
            exit_code=WRONG_USAGE,
        )
    require_redis(settings.redis_url, "CALLWATCH_REDIS_URL")
    require_broker(settings)
    ports = choose_ports(
        {"flower": options.port_flower, "metrics": options.port_metrics, "gateway": options.port_gateway}, say
    )
    password = key = ""
    if not settings.gateway_keys_file:
        key, gateway = _gateway_key(folder)
        secret = {} if settings.gateway_token_secret is None else {"CALLWATCH_GATEWAY_TOKEN_SECRET"}
        load_environment({name: value for name, value in gateway.items() if name not in secret}, {}, Path.cwd())
    if settings.flower_auth is None:
        password = secrets.token_urlsafe(18)
        load_environment({"CALLWATCH_FLOWER_AUTH": f"{FLOWER_USER}:{password}"}, {}, Path.cwd())
    say(f"callwatch up: live, its upstream is {redact(settings.api_base_url)}")
    _say_flower(ports["flower"], password)
    say(f"  metrics    http://{HOST}:{ports['metrics']}/metrics")
    _say_gateway(ports["gateway"], key)
    say(f"  logs       {folder / 'logs'}")
    workers = _workers(folder, settings.connect_timeout + settings.call_timeout + SPARE_STOP)
    watchers = _watchers(folder, ports)
    with _running((*workers, *watchers), signals) as supervisor:
        from cli.up.demo_view import show_live  # noqa: PLC0415

        show_live(settings, supervisor, signals)


@contextlib.contextmanager
def _running(children: tuple[Child, ...], signals: Signals) -> Iterator[Supervisor]:
    """Keep the children running within the block, and stop all of them after it."""
    watchdog = Watchdog()
    supervisor = Supervisor(watchdog, say)
    try:
        for child in children:
            if not signals.stopped:
                _start(supervisor, child)
        supervisor.watch()
        yield supervisor
    finally:
        supervisor.say("stopping; a second signal kills all processes at once")
        try:
            supervisor.kill() if signals.insisted else supervisor.stop()
        except KeyboardInterrupt:
            supervisor.kill()
        watchdog.close()
        supervisor.say("stopped")


def _start(supervisor: Supervisor, child: Child) -> None:
    try:
        supervisor.add(child)
    except EmbeddedServerError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"{child.name} cannot be started: {error}") from None


def _workers(folder: Path, stop_limit: float) -> tuple[Program, Program]:
    """Return the trigger worker and the poll worker."""
    return (
        _worker("trigger", programs.TRIGGER_WORKER, folder, stop_limit),
        _worker("poll", programs.POLL_WORKER, folder, stop_limit),
    )


def _worker(name: str, command: tuple[str, ...], folder: Path, stop_limit: float) -> Program:
    logs = folder / "logs"
    health = {"CALLWATCH_HEALTH_FILE": str(logs / f"{name}-worker.health")}  # with one, a stuck worker ends
    return Program(
        f"{name} worker", _python(*command, *WORKER_OPTIONS), logs / f"{name}-worker.log", stop_limit, health
    )


def _simulator(folder: Path, port: int, token: str) -> Program:
    requests = folder / "logs" / "simulator-requests.jsonl"
    command = _python(*programs.SIMULATOR, "--port", str(port), "--log", str(requests))
    return Program("simulator", command, folder / "logs" / "simulator.log", QUICK_STOP, {TOKEN_VARIABLE: token})


def _flower(folder: Path, port: int) -> Program:
    command = _python(*programs.FLOWER, "--port", str(port))
    return Program("Flower", command, folder / "logs" / "flower.log", QUICK_STOP)


def _metrics(folder: Path, port: int) -> Program:
    command = _python(*programs.METRICS, "--port", str(port))
    return Program("metrics", command, folder / "logs" / "metrics.log", QUICK_STOP)


def _gateway(folder: Path, port: int) -> Program:
    command = _python(*programs.GATEWAY, "--host", HOST, "--port", str(port))
    return Program("gateway", command, folder / "logs" / "gateway.log", QUICK_STOP)


def _watchers(folder: Path, ports: Mapping[str, int]) -> tuple[Program, ...]:
    """Return the processes that show the work of the workers."""
    return _flower(folder, ports["flower"]), _metrics(folder, ports["metrics"]), _gateway(folder, ports["gateway"])


def _gateway_key(folder: Path) -> tuple[str, dict[str, str]]:
    """Return an API key with every scope, and the settings with which the gateway accepts it and signs tokens."""
    key, kept = new_key(GATEWAY_USER, SCOPES)
    path = folder / "gateway-keys"
    path.unlink(missing_ok=True)
    try:
        append_key(path, kept)
    except KeysError as error:
        raise Failure(f"--data: {error}") from None
    secret = secrets.token_urlsafe(32)
    return key, {"CALLWATCH_GATEWAY_KEYS_FILE": str(path), "CALLWATCH_GATEWAY_TOKEN_SECRET": secret}


def _say_gateway(port: int, key: str) -> None:
    say(f"  gateway    http://{HOST}:{port}/openapi.json")
    say(f"             key {key}" if key else "             keys as configured")


def _python(*module_and_arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *module_and_arguments)


def _say_flower(port: int, password: str) -> None:
    say(f"  Flower     http://{HOST}:{port}")
    say(
        f"             user {FLOWER_USER}, password {password}"
        if password
        else "             user and password as configured"
    )


@contextlib.contextmanager
def _data_folder(given: Path | None) -> Iterator[Path]:
    """Yield the folder for data and logs: the given one, which stays, or a temporary one."""
    folder = Path(tempfile.mkdtemp(prefix="callwatch-")) if given is None else given.expanduser().absolute()
    try:
        (folder / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"--data: {folder} cannot be used: {error.strerror}") from None
    try:
        yield folder
    finally:
        if given is None:
            shutil.rmtree(folder, ignore_errors=True)
