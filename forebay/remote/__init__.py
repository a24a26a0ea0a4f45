"""Reaching a warehouse that another process owns: Arrow Flight over a Unix socket in the warehouse directory.

`server` runs in the owner, `client` in processes that attach; `wire` is what they say to each other, `address` where they meet.
"""
