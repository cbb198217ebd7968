"""`make crash`: kill the service at every failpoint."""
