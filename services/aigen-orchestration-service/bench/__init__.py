"""What we measure, and what it is measured against; every ratio comes from interleaved runs of one
call.
"""
