"""How fast the generated app is, side by side with a bare app, its floors and its peers.

    make bench                              all, in some 17 minutes; writes docs/benchmarks.*
    make bench ARGS="--quick"               the same with less effort, in 2 to 3 minutes
    make bench ARGS="--only 'cache read'"   only the rows whose name has these words
    make bench ARGS="--template ../other"   another checkout of the template
    make bench ARGS="--output FOLDER"       writes the table and the plot of any of these there

A project is baked from the template and driven by its public contract alone: ``create_app`` with a
configuration in TOML, routes that use ``request.session``, and the protocol of the stores.

    subjects.py    who is measured, on which store: the columns
    peers.py       other people's sessions: a new one is one more function here
    floors.py      what the engines cost without any session
    workloads.py   what all are asked to do, and what their sessions hold
    targets.py     what is to be reached: the limits, by the names of the rows
    in_process.py, served.py, growth.py, start.py    the parts: each yields rows
    measure.py, load.py                              the clocks and the load
    report.py, plot.py                               the table and the plot

What sessions promise, rather than how fast they are, is put to the test by ``make compare``:
see comparison.py.
"""
