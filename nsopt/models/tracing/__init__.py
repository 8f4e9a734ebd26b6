"""Any module as a family of networks: its operations run on labels that say which channels go
together."""
