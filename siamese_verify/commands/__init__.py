"""One module for each command of `siamese-verify`, or for a few that belong together."""
