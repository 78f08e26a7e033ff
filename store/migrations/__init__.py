"""The steps from each released schema of a store to the next, for Alembic. What runs them is `store/migrating.py`."""
