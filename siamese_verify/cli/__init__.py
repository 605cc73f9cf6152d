"""Commands of the `siamese-verify` program, one module each."""
