"""Sessions in files: they survive a restart, and the processes of one machine share them.

In the store's folder, ``ab/<key>`` holds the record whose key begins with ``ab``, and
``owners/cd/<owner>/<key>`` marks a session that has an owner. Folders are 0700 and files 0600. A
record is written to a temporary file that then takes its place, so that a reader, or a crash at any
instant, sees the old record or the new one. Writers of one sub-folder take turns: see ``locks``.

The access time of a file is the expiry of its record, so that a sweep need not read what is alive.
It is only a hint, since the record's bytes are the truth; and reading leaves it alone, because it
lies in the future (relatime, mount(8)).
"""

from .store import FileStore

__all__ = ["FileStore"]
