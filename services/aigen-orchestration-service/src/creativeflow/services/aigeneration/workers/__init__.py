"""The roles that work in the background; each may run any number of times."""
