"""One file a schema version; a released one is never changed."""
