"""The project's own tests, and in `contract.py` those of any session store."""
