"""Scores -> ROC, EER, operating points, intervals, calibration, reports; importing it loads nothing before a use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names of __init__.pyi
