"""Background roles; each may run in any number of processes."""
