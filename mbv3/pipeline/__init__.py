"""Names of 0.1.0 that scripts import; the code lives in the rooms."""
