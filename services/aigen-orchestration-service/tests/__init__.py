"""The tests of the service and the helpers they share."""
