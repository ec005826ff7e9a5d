"""The commands, one a file: what a command reads, what it calls, what it writes. Read train.py
first.
"""
