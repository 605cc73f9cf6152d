"""Commands of `siamese-verify` that need no Hydra; a module is imported when one of its commands runs."""
