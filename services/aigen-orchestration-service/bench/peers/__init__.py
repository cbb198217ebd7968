"""The same lifecycle as its users would write it on DBOS, on Celery and on procrastinate, beside
our own service.
"""
