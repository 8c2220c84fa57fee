"""How fast the engine is, side by side with a bare app, its floors and its peers.

    make bench                              all, in some 20 minutes; writes docs/benchmarks.*
    make bench ARGS="--quick"               the same with less effort, in 3 minutes
    make bench ARGS="--only 'cache read'"   only the rows whose name has these words
    make bench ARGS="--output FOLDER"       writes the tables and the picture of any of these there

The engine is put into a bare Starlette app by its public API: ``Sessions(url)``, routes that use
``request.session``, and the protocol of the stores.

    subjects.py    who is measured, on which store: the columns
    ours.py        the engine
    peers.py       other people's sessions: a new one is one more function here
    floors.py      what the databases cost without any session
    workloads.py   what all are asked to do, and what their sessions hold
    targets.py     what is to be reached: the limits, by the names of the rows
    in_process.py, served.py, growth.py, start.py    the parts: each yields rows
    measure.py, load.py                              the clocks and the load
    report.py, picture.py                            the tables and the picture

What sessions promise, rather than how fast they are, is put to the test by ``make compare``:
see comparison.py. ``make capacity`` measures the stores alone: see capacity.py.
"""
