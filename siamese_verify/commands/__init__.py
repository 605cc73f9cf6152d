"""Commands of `siamese-verify`, each imported when it runs."""
