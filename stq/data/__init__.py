"""Lightning data modules: images in memory (``arrays``), folders and streams of images (``folders``)."""

from .arrays import ArrayDataModule
from .folders import TimmDataModule

__all__ = ["ArrayDataModule", "TimmDataModule"]
