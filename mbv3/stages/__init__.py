"""The steps of the chain as plain functions."""
