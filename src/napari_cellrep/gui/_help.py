"""Help in place: the "?" of a card shows its part of docs/window.md, which the wheel brings along."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QTextBrowser, QVBoxLayout, QWidget

# In a wheel beside this file, in a checkout in docs/.
_PLACES = (Path(__file__).with_name("window.md"), Path(__file__).parents[3] / "docs" / "window.md")


def help_text(title: str) -> str:
    """The section of the guide whose heading ends with `title`, as Markdown without pictures.

    Raises
    ------
    KeyError
        If the guide has no such section.
    """
    guide = next(path for path in _PLACES if path.is_file()).read_text(encoding="utf-8")
    found: list[str] = []
    level = 0
    for line in guide.splitlines():
        if line.startswith("#"):
            depth = len(line) - len(line.lstrip("#"))
            if not level and line.lstrip("# ").endswith(title):
                level = depth
            elif level and depth <= level:
                break
        if level and not line.startswith("!["):
            found.append(line)
    if not found:
        raise KeyError(title)
    return "\n".join(found)


def show_help(title: str, parent: QWidget) -> QDialog:
    """Open a window with a section of the guide; it stays open beside the work."""
    dialog = QDialog(parent)
    dialog.setWindowTitle(f"CellRep: {title}")
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.resize(520, 420)
    view = QTextBrowser()
    view.setOpenExternalLinks(True)
    view.setMarkdown(help_text(title))
    QVBoxLayout(dialog).addWidget(view)
    dialog.show()
    return dialog
