"""Sphinx's settings for the site; build.py brings the pages."""

from importlib.resources import files

from docutils import nodes
from sphinx.application import Sphinx

project = html_title = "Sharper brain MRI"
author = "the mDCSRN super-resolution study authors"
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search field is in the sidebar
}
html_context = {"default_mode": "auto"}
html_css_files = ["site.css"]
html_js_files = [("compare.js", {"defer": "defer"})]
html_show_copyright = html_use_index = False

nb_execution_mode = "off"  # `make reproduce` executed the notebooks
nb_output_stderr = "remove"  # hundreds of progress bars
myst_enable_extensions = ["colon_fence", "dollarmath"]
# The text pages name files of the repository that are no part of the site, and show CSV.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]

# Nothing comes from another host: a page opens from a disk, without a network.
nb_ipywidgets_js = {}
mathjax_path = "tex-svg.js"  # one file, which holds the shapes of the letters, too
html_static_path = ["_static", str(files("sphinx-mathjax-offline") / "static" / "mathjax" / mathjax_path)]
html_show_search_summary = False  # it fetches the pages that it found, which a browser forbids on a disk


def name_run(app: Sphinx, document: nodes.document) -> None:
    """The notebooks of all runs have the same titles: of all but the demo's, the title names the run."""
    folder, _, page = app.env.docname.rpartition("/")
    run = folder.removeprefix("results/")
    if run not in (folder, "demo") and page != "index":
        document.next_node(nodes.title).append(nodes.Text(f" ({run})"))


def name_pictures(_: Sphinx, document: nodes.document) -> None:
    """Pictures of notebooks have no alternative text of their own: say to which section they belong."""
    for image in document.findall(nodes.image):
        section = image
        while not isinstance(section, nodes.section | nodes.document):
            section = section.parent
        image.setdefault("alt", f"Figure of the section {section.next_node(nodes.title).astext()}")


def unlink_missing(_: Sphinx, document: nodes.document, __: str) -> None:
    """A link to a file that the site does not have becomes text."""
    for text in list(document.findall(nodes.inline)):
        if text["classes"] == ["xref", "myst"] and isinstance(text.parent, nodes.reference):
            text.parent.replace_self(text.children)


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", name_run, priority=100)  # before Sphinx collects titles
    app.connect("doctree-read", name_pictures)
    app.connect("doctree-resolved", unlink_missing)
