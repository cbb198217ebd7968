"""What a generation request is and what may happen to it, in plain Python without any input or
output.
"""
