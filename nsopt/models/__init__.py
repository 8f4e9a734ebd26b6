"""Families of networks indexed by their widths."""
