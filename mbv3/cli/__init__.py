"""The command line."""

from mbv3.cli.main import main, search_main

__all__ = ["main", "search_main"]
