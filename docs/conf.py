"""How the documentation is built: ``sphinx-build -W docs build/docs``."""

import isnas

project = "isnas"
author = "the isnas authors"
version = release = isnas.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "isnas"
exclude_patterns = ["_build"]

myst_heading_anchors = 3  # headings can be linked to, as on the pages of a repository
default_role = "py:obj"  # `isnas.fold` in a docstring is a link
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it in words
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_custom_sections = ["Class attributes"]
