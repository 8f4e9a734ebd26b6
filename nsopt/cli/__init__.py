"""The `nsopt` command. Each file is one command: it parses options, calls the library and prints.

A command is a frozen dataclass of options and a function that takes it. Options that several
commands share are groups in cli/options.py, which a command holds as fields. Functions import what
is slow to import themselves, so that `nsopt --help` is fast.
"""
