"""The demo: the real purchases of a CD shop through customer actors, checked against the input itself."""
