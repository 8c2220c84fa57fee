"""How sessions fare under load while processes are killed and paused, and networks are cut.

    make soak                              a minute on each store
    make soak ARGS="--store postgresql"    on one: --help names them
    make soak ARGS="--seconds 600 --seed 7 --workers 4 --clients 4"
    make soak ARGS="--store snapshots"     Valkey without its log: shows how losses are found

A project is generated, with pages of the soak's own, and served by its own command. Client
processes note all that they ask and all that is answered; meanwhile an operator types the project's
commands, each of which is a process of its own. At the end each session must be as the ledgers say:
first as the site answers, then as a fresh process finds it after the site was killed. Servers are
from the same wheels as in the tests, and on this machine alone: as root, in network namespaces that
only these processes see; else on the loopback, where SIGSTOP stands in for a network that is cut.
Linux only.

    ledger.py      what was asked and answered, and what the site owes since then
    workload.py, client.py, pages.py    the visitors, their HTTP, and the pages that they visit
    site.py        the app and its workers
    commands.py    those of the project, typed beside the site
    stores.py, replicated.py, servers.py, network.py    what the sessions are kept in
    faults.py      what goes wrong, and when
    check.py, report.py    the end: every session, and the table
"""
