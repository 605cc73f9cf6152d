"""`hydra/launcher=local`."""

from siamese_verify.sweeps import local_launcher


class LocalLauncher(local_launcher.LocalLauncher):
    """Launcher of the runs of a sweep on this machine."""
