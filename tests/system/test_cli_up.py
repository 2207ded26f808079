"""`callwatch up` without a terminal: its lines, the simulator's log, and its processes."""

import json
import re
import signal
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.demonstration import PROGRAMS, SERVICES, Up, alive, ask
from tests.deployment import LIMIT, wait_until
from tests.ports import free_port
from tests.receiver import SECRET, Receiver

CASES = ["C-1001", "C-1002", "C-1003"]
PERSONS = {"P-10010001", "P-10010002", "P-10020003", "P-10030005"}
SHORT = [["Scheduling", 0], ["Succeeded", 1]]
OVER = "every sample call has ended; serving until Ctrl-C"

# Settings of a deployment, of another Celery program and of a folder; a demonstration ignores all of them.
REFUSED = "127.0.0.1:1"
HOSTILE = {
    "CALLWATCH_REDIS_URL": f"redis://{REFUSED}/3",
    "callwatch_broker_url": f"redis://{REFUSED}/4",
    "CALLWATCH_API_BASE_URL": f"http://{REFUSED}",
    "CALLWATCH_API_TOKEN": "not-ours",
    "CALLWATCH_API_TRUST_ENV": "true",
    "CALLWATCH_ENABLED": "false",
    "CALLWATCH_POLL_INTERVAL": "1",
    "CALLWATCH_NOTICE_URL": f"http://{REFUSED}/hook",
    "CALLWATCH_NOTICE_SECRET": "of the receiver of production",
    "CALLWATCH_NOTICE_TASK": "calls.notice",
    "CALLWATCH_NOTICE_QUEUE": "production",
    "BROKER_URL": f"redis://{REFUSED}/5",
    "CELERY_BROKER_URL": f"redis://{REFUSED}/6",
    "CELERY_RESULT_BACKEND": f"redis://{REFUSED}/7",
    "FLOWER_UNAUTHENTICATED_API": "true",
    "FLOWER_ADDRESS": "0.0.0.0",  # noqa: S104 - must not be used
    "http_proxy": f"http://{REFUSED}",
}
HOSTILE_FILE = f"CALLWATCH_RESULT_URL=redis://{REFUSED}/8\nCALLWATCH_KEY_PREFIX=other\nCALLWATCH_HISTORY_TTL=never\nCALLWATCH_NO=1\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One demonstration in a hostile environment, shared by all tests that only read it."""
    folder = tmp_path_factory.mktemp("up")
    (folder / ".env").write_text(HOSTILE_FILE)
    with Up(folder, environment=HOSTILE) as up:
        wait_until(lambda: up.saw("triggers enqueued"))
        yield up


def test_s40_every_service_is_on_loopback_and_behind_a_credential(running: Up) -> None:
    children = running.children()
    assert set(children) == PROGRAMS
    try:
        wait_until(lambda: listening(children) == {("127.0.0.1", port) for port in running.ports.values()})
    except psutil.NoSuchProcess:
        pytest.fail(f"a service ended:\n{running.text}")
    secrets = re.findall(r"(?:password|token|bearer|key) (\S+)|redis://default:(\S+)@", running.text)
    assert secrets, "the demonstration prints its passwords"
    for secret in filter(None, (part for found in secrets for part in found)):
        assert not [child for child in children.values() if secret in " ".join(child.cmdline())]


def listening(children: dict[str, psutil.Process]) -> set[tuple[str, int]]:
    sockets = [one for child in children.values() for one in child.net_connections(kind="inet")]
    return {(one.laddr.ip, one.laddr.port) for one in sockets if one.status == psutil.CONN_LISTEN}


def test_printed_variables_suffice_for_a_second_terminal(running: Up) -> None:
    done = running.run("trigger", "C-77", "7", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["case_id"], len(answer["jobs"])) == ("started", "C-77", 2)
    again = running.run("trigger", "C-77", "7", "--wait")
    assert again.returncode == 0, again.stderr
    assert "已有活跃外呼任务,跳过发起新外呼" in again.stdout
    assert not [job["person_id"] for job in answer["jobs"] if job["person_id"] in again.stdout], "S37"
    document = running.status("--case", "C-77", "--all")  # on a slow machine they have already ended
    assert {call["job_id"] for call in document["calls"]} == {job["job_id"] for job in answer["jobs"]}
    (pair,) = document["cases"]
    assert (pair["case_id"], pair["mediation_id"]) == ("C-77", "7")
    assert pair["phase"] in {"watching", "done"}


def test_samples_are_dialled_once_and_watched_to_their_end(running: Up) -> None:
    wait_until(lambda: running.saw(OVER))
    dialled = running.dialled()
    assert {key: count for key, count in dialled.items() if key[1] in {*CASES, *PERSONS}} == dict.fromkeys(
        [*(("case", case) for case in CASES), *(("person", person) for person in PERSONS)], 1
    )
    assert ("person", "P-10020004") not in dialled
    shown = [line.split("  ")[1:] for line in running.lines if re.match(r"\d\d:\d\d:\d\d[+-]\d\d:\d\d  C-100", line)]
    seen = [[parts[2] for parts in shown if parts[0].startswith(case) and parts[1] != "refused"] for case in CASES]
    assert Counter(seen[0]) == {"拨号中": 2, "通话中": 2, "已完成": 2}
    assert seen[1:] == [["拨号中", "通话中", "已完成"], ["拨号中", "失败"]]
    (refused,) = (parts for parts in shown if parts[1] == "refused")
    assert refused[2:6] == ["1001", "未到下一轮外呼时间,请等待", "must_wait", "***0004"]
    assert not [person for person in PERSONS if person in running.text], "S37"


def test_demonstration_sends_no_notice_to_a_configured_receiver(running: Up) -> None:
    """A refused one would wait in the outbox."""
    wait_until(lambda: running.saw(OVER))
    done = running.run("notices", "--json")
    assert json.loads(done.stdout) == {"channels": [], "dead": 0}, done.stderr


def test_with_notices_a_demonstration_sends_them_to_the_configured_receiver(tmp_path: Path) -> None:
    receiver = Receiver().start()
    environment = {"CALLWATCH_NOTICE_URL": receiver.url, "CALLWATCH_NOTICE_SECRET": SECRET}
    ports = [f"--port-{name}={free_port()}" for name in SERVICES]
    try:
        with Up(tmp_path, "--notices", *ports, environment=environment) as up:
            wait_until(lambda: up.saw("triggers enqueued"))
            wait_until(lambda: bool(receiver.taken))
            up.process.send_signal(signal.SIGTERM)
            assert up.process.wait(LIMIT) == 0
    finally:
        receiver.stop()
    assert {notice["case_id"] for notice in receiver.taken} <= set(CASES)


def test_live_installation_refuses_the_option_for_notices(tmp_path: Path) -> None:
    """It sends them as configured."""
    with Up(tmp_path, "--live", "--notices") as up:
        assert up.process.wait(LIMIT) == 2
    assert up.lines == ["callwatch: --notices: --live sends notices as configured"]


def test_flower_shows_the_tasks_with_the_password(running: Up) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401") as refusal:
        running.tasks("callwatch:guess")
    refusal.value.close()
    credentials = "callwatch:" + running.find(r"user callwatch, password (\S+)")
    wait_until(lambda: "outbound.poll" in str(running.tasks(credentials)))
    assert not [person for person in PERSONS if person in str(running.tasks(credentials))], "S37"


def test_printed_variables_suffice_for_every_command(running: Up) -> None:
    """Commands that query upstream need its token as well."""
    wait_until(lambda: running.saw(OVER))
    shown = running.run("conversation", running.find(r"ended  已完成  (\S+)"))
    assert shown.returncode == 0, shown.stderr


def test_dead_worker_is_restarted_and_calls_stay_watched(running: Up) -> None:
    wait_until(lambda: running.saw(OVER))
    worker = running.children()["poll@"]
    worker.kill()
    wait_until(lambda: running.saw("poll worker is running again"))
    assert "poll worker ended (killed by SIGKILL" in running.text
    assert running.children()["poll@"].pid != worker.pid
    token = running.find(r" token (\S+)")
    ask(running.ports["simulator"], "/_sim/script", f"Bearer {token}", {"case_id": "C-88", "life": SHORT})
    done = running.run("trigger", "C-88", "8", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: len(re.findall(r"C-88/8  ended  已完成", running.text)) == 2)


def test_a_taken_port_leaves_nothing_running(running: Up, tmp_path: Path) -> None:
    port = running.ports["flower"]
    others = [f"--port-{name}={free_port()}" for name in SERVICES if name != "flower"]
    with Up(tmp_path, f"--port-flower={port}", *others) as up:
        assert up.process.wait(LIMIT) == 1
    assert up.lines == [f"callwatch: --port-flower: port {port} on 127.0.0.1 cannot be used: address already in use"]


def test_a_data_folder_that_is_in_use_leaves_nothing_running(running: Up, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(running.folder / "data")
    with Up(tmp_path) as up:
        assert up.process.wait(LIMIT) == 1
    assert "another embedded server is using" in up.lines[-1]
    assert up.lines[-2] == "stopped"


def test_one_signal_stops_everything_in_order(running: Up) -> None:
    children = list(running.children().values())
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(LIMIT) == 0
    assert alive(children) == []
    wait_until(lambda: "stopped" in running.lines)
    assert "and is killed" not in running.text
    assert (running.folder / "data" / "redis" / "appendonlydir").is_dir(), "a given folder stays"


def test_no_process_outlives_a_killed_up(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        wait_until(lambda: up.saw("triggers enqueued"))
        children = list(up.children().values())
        assert len(children) == len(PROGRAMS)
        up.process.kill()
        wait_until(lambda: not alive(children))


def test_ctrl_c_while_it_starts_stops_everything(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        wait_until(lambda: "poll@" in up.children())
        children = list(up.children().values())
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(LIMIT) == 0
        assert alive(children) == []
