"""``make soak``: load and faults on each store, the check of every session, and the table."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

from .check import check
from .commands import Operator
from .faults import disturb, faults_of_processes, interleave
from .network import Network
from .replicated import cluster, sentinel
from .report import Outcome, details, table
from .site import Site
from .stores import Open, file, postgresql, snapshots, sqlite, valkey
from .workload import VISITORS, Clients

STORES: dict[str, Open] = {
    "file": file,
    "sqlite": sqlite,
    "postgresql": postgresql,
    "valkey": valkey,
    "sentinel": sentinel,
    "cluster": cluster,
}


def main(arguments: list[str]) -> int:
    """Run what was asked for; the exit status."""
    options = parse(arguments)
    network = Network()
    outcomes = []
    for name in options.store or STORES:
        outcome = soak(name, network, options)
        outcomes.append(outcome)
        print(f"{table([outcome])}\n{details(outcome)}", flush=True)
    if len(outcomes) > 1:
        print(table(outcomes))
    return int(any(outcome.is_broken for outcome in outcomes))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='make soak ARGS="..."', description=__doc__)
    add = parser.add_argument
    add("--store", action="append", choices=[*STORES, "snapshots"], help="one of them; all in turn")
    add("--seconds", type=float, default=60, help="of load and faults, for each store  [60]")
    add("--workers", type=_at_least_two, default=2, help="of the app  [2]")
    add("--clients", type=int, default=2, help=f"processes of {VISITORS} visitors each  [2]")
    add("--seed", type=int, default=0, help="of faults and visitors  [0]")
    return parser.parse_args(arguments)


def _at_least_two(text: str) -> int:
    """So that somebody starts a killed one again."""
    if int(text) < 2:
        raise ValueError(text)
    return int(text)


def soak(name: str, network: Network, options: argparse.Namespace) -> Outcome:
    """Load and faults on one store, and what has become of every session."""
    random = Random(f"{options.seed} {name}")
    open_store = snapshots if name == "snapshots" else STORES[name]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        store = stack.enter_context(open_store(folder, network, random))
        site = Site(folder, store.toml, options.workers)
        stack.callback(site.stop)
        site.wait_until_ready()
        began = time.monotonic()
        clients = Clients(folder / "ledgers", site.port, options.clients, options.seed)
        stack.callback(clients.kill)
        clients.wait_until_busy()
        operator = Operator(site)
        operator.start()
        faults = interleave(store.faults, faults_of_processes(site, clients, random))
        try:
            events = disturb(faults, options.seconds, random)
        finally:
            operator.stop()
        clients.stop()
        ended = time.monotonic()
        site.start_again()  # so that what only the old processes saw counts for nothing
        site.wait_until_ready()
        ledgers = clients.ledgers()
        asyncio.run(check(ledgers, site.port))
        typed = operator.typed.total()
        return Outcome(name, options.clients * VISITORS, began, ended, ledgers, events, typed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
