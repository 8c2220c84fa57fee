"""How sessions fare under load while processes are killed and paused, and networks are cut.

    make soak                              a minute on each store
    make soak ARGS="--store postgresql"    on one: --help names them
    make soak ARGS="--seconds 600 --seed 7 --workers 4 --clients 4"
    make soak ARGS="--store snapshots"     Valkey without its log: shows how losses are found

A project is baked from the template, with pages of the soak's own, and served by its own command.
Client processes note all that they ask and all that is answered, while somebody types the project's
commands. At the end the site is killed and started again, and each session must be as the ledgers
say: what only the old processes still saw is lost. Servers are of the same wheels as in the tests,
and on this machine alone: as root, in network namespaces that only these processes see; else on the
loopback, where SIGSTOP stands in for a network that is cut. Linux only.

    ledger.py      what was asked and answered, and what the site owes since then
    workload.py, client.py, pages.py    the visitors, their HTTP, and the pages that they visit
    site.py        the app and its workers
    stores.py, replicated.py, servers.py, network.py    what the sessions are kept in
    commands.py    who types the project's commands meanwhile
    faults.py      what goes wrong, and when
    check.py, report.py    the end: every session, and the table
"""
