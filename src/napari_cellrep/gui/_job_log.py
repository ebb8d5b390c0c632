"""The jobs that wait, run and ran, with what a bug report needs."""

from __future__ import annotations

import platform
from importlib.metadata import version

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui._runner import LogEntry, Runner
from napari_cellrep.gui.cards._parts import duration


class JobLog(QDialog):
    """Above, the jobs that wait for the running one; below, the last jobs, newest first, with their details.

    Parameters
    ----------
    runner : Runner
    parent : QWidget
    """

    def __init__(self, runner: Runner, parent: QWidget):
        super().__init__(parent)
        self.runner = runner
        self.setWindowTitle("CellRep: jobs")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(720, 520)
        self.waiting_title = QLabel("Waiting")
        self.waiting = QListWidget()
        self.waiting.setMaximumHeight(110)
        self.waiting.setToolTip("They start one after the other when the running job has ended")
        self.take_out = QPushButton("Take out")
        self.take_out.setToolTip("The chosen job is not started")
        self.take_out.clicked.connect(self._take_out)
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.copy = QPushButton("Copy details")
        self.copy.setToolTip(
            "Copies everything below with the versions in use: send it along when you ask for help"
        )
        self.copy.clicked.connect(self._copy)
        line = QHBoxLayout()
        line.addWidget(QLabel("The last jobs"), 1)
        line.addWidget(self.copy)
        layout = QVBoxLayout(self)
        for item in (self.waiting_title, self.waiting, self.take_out):
            layout.addWidget(item)
        layout.addLayout(line)
        layout.addWidget(self.details, 1)
        runner.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the jobs as they are now."""
        queued = self.runner.queued
        row = self.waiting.currentRow()
        if [self.waiting.item(i).text() for i in range(self.waiting.count())] != [h.title for h in queued]:
            self.waiting.clear()
            self.waiting.addItems([handle.title for handle in queued])
            self.waiting.setCurrentRow(min(max(row, 0), len(queued) - 1))
        for item in (self.waiting_title, self.waiting, self.take_out):
            item.setVisible(bool(queued))
        said = "\n\n".join(_entry(entry) for entry in reversed(self.runner.log)) or "No job has ended yet."
        if self.details.toPlainText() != said:
            self.details.setPlainText(said)

    def _take_out(self) -> None:
        row = self.waiting.currentRow()
        queued = self.runner.queued
        if 0 <= row < len(queued):
            queued[row].stop()

    def _copy(self) -> None:
        QApplication.clipboard().setText(f"{versions()}\n\n{self.details.toPlainText()}")
        self.copy.setText("Copied")


def versions() -> str:
    """What a bug report begins with: versions and system."""
    found = ", ".join(f"{name} {version(name)}" for name in ("napari-cellrep", "napari", "torch", "anndata"))
    return f"{found}, Python {platform.python_version()}, {platform.platform()}"


def _entry(entry: LogEntry) -> str:
    head = (
        f"{entry.started:%H:%M:%S}  {entry.title} ({entry.step}): {entry.end} after {duration(entry.seconds)}"
    )
    return "\n".join(filter(None, (head, entry.sentence, entry.details)))
