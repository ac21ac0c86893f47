"""A fuzzer of model files: whole files are taken apart, changed where it hurts, and sealed again."""
