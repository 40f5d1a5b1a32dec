"""Sphinx's settings; build.py links the sources of the site beside this file and renders pages/."""

from importlib.resources import files

project = "Sharper brain MRI"
html_title = project
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_show_copyright = html_show_sphinx = False
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "search_bar_text": "Search the study",
}

nb_execution_mode = "off"  # the notebooks are executed, by `make reproduce`
nb_output_stderr = "remove"  # hundreds of progress bars
nb_render_markdown_format = "myst"
myst_enable_extensions = ["colon_fence", "dollarmath"]
# CONTRIBUTING and the datasheet name files of the repository that are no part of the site.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]

# Nothing comes from another host: a page opens from a disk, without a network.
nb_ipywidgets_js = {}
mathjax_path = "tex-svg.js"  # one file, which holds the fonts, too
mathjax = files("sphinx-mathjax-offline") / "static" / "mathjax" / mathjax_path
html_static_path = ["_static", str(mathjax)]
html_css_files = ["site.css"]
html_js_files = ["compare.js"]
html_show_search_summary = False  # it would fetch the pages that it found, which a browser forbids on a disk
