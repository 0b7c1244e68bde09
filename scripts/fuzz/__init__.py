"""What scripts/fuzz_inputs.py feeds the readers with, and the readers as the commands call them."""
