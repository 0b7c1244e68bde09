"""The version of the package, by itself: what records it must not import the package's door."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
