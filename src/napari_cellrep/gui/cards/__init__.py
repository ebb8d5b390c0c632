"""The five cards of the CellRep dock, one file each (ui.md)."""
