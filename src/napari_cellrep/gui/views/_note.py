"""A window with text."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QDialog, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget


class Note(QDialog):
    """Text to be read and copied."""

    def __init__(self, parent: QWidget, title: str, words: str) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.text = QPlainTextEdit(words)
        self.text.setReadOnly(True)
        copy = QPushButton("Copy")
        copy.setToolTip("Copy the text")
        copy.clicked.connect(lambda _=False: QGuiApplication.clipboard().setText(words))
        layout = QVBoxLayout(self)
        layout.addWidget(self.text)
        layout.addWidget(copy, 0, Qt.AlignmentFlag.AlignRight)
        self.resize(760, 520)
