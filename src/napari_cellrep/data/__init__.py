"""Nouns: fields of view, cells, crops, and the project on disk. Never torch, never Qt."""

from napari_cellrep.data.project import Project, create_project, open_project

__all__ = ["Project", "create_project", "open_project"]
