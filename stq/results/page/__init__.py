"""One HTML page with tables, figures and every run, in one file that needs no network."""

from .build import make_page

__all__ = ["make_page"]
