"""A Starlette app whose sessions live on the server. Begin reading in ``app.py``."""
