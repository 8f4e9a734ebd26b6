"""The `nsopt` command: one file a command, which parses, calls and prints.

A command is a frozen dataclass whose fields are its options, and a function that takes it. Options
that commands share are dataclasses of their own (cli/options.py), which they hold as fields.
"""
